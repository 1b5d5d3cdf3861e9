//! TensorBoard event files: records in the framing of TFRecord, each a protocol buffer `Event`.
//!
//! Source: tensorflow/core/util/event.proto, framework/summary.proto and lib/io/record_writer.h; only what scalars need.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use prost::Message;

use super::metrics::StepMetrics;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// Writes the numbers of all steps into one event file of a folder, under `train/<name>`; an older file of this name is replaced.
///
/// * `first_step`: what step 0 counts as, so that the batches of a loop follow each other on one axis.
/// * `wall_time`: seconds since 1970 of every event.
pub fn write(folder: &Path, steps: &[StepMetrics], first_step: u64, wall_time: f64) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    // TensorBoard looks for this word in the name.
    let path = folder.join("events.out.tfevents.0.fulgurite");
    let mut bytes = record(&Event { wall_time, step: 0, what: Some(What::FileVersion("brain.Event:2".to_owned())) });
    for step in steps {
        let value = step.numbers.iter().filter(|(_, number)| number.is_finite());
        let value =
            value.map(|(name, number)| SummaryValue { tag: format!("train/{name}"), simple_value: *number as f32 }).collect();
        let what = Some(What::Summary(Summary { value }));
        bytes.extend(record(&Event { wall_time, step: (first_step + step.step) as i64, what }));
    }
    let mut file = File::create(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
    file.write_all(&bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Length and its checksum, the event and its checksum.
fn record(event: &Event) -> Vec<u8> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked_checksum(&length));
    bytes.extend(&data);
    bytes.extend(masked_checksum(&data));
    bytes
}

/// CRC-32C, turned and shifted so that the checksum of data that holds checksums is no special case.
fn masked_checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_back_to_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut step = StepMetrics::new(2, 0);
        step.set("loss", 0.5);
        step.set("entropy", f64::NAN);
        write(folder.path(), &[step], 10, 1.5).unwrap();
        let bytes = std::fs::read(folder.path().join("events.out.tfevents.0.fulgurite")).unwrap();
        let mut events = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let (checksum, after) = after.split_at(4);
            assert_eq!(checksum, masked_checksum(length));
            let (data, after) = after.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (checksum, after) = after.split_at(4);
            assert_eq!(checksum, masked_checksum(data));
            events.push(Event::decode(data).unwrap());
            rest = after;
        }
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
        let value = vec![SummaryValue { tag: "train/loss".to_owned(), simple_value: 0.5 }];
        assert_eq!(events[1], Event { wall_time: 1.5, step: 12, what: Some(What::Summary(Summary { value })) });
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn the_checksum_is_the_one_of_tensorflow() {
        // The length of 24 bytes as TensorFlow frames it: the usual first record of an event file.
        assert_eq!(masked_checksum(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }
}
