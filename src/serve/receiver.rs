//! What an agent's own OpenTelemetry exporter sends: OTLP/HTTP bodies, protobuf or JSON, made lines of the rollout.

use std::io::Read as _;

use opentelemetry_proto::tonic::logs::v1::LogsData;
use opentelemetry_proto::tonic::trace::v1::TracesData;
use prost::Message as _;
use serde_json::{Value, json};

use super::openai::ApiError;
use super::record;
use super::rollout::Rollout;

/// What is sent: the two signals that say something about an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Logs,
}

/// A body as lines of OTLP JSON, each with the rollout's identity on its resource.
///
/// * `is_json`: the content type is JSON, else protobuf.
/// * `is_gzip`: the content encoding.
/// * `limit_bytes`: of the body once it is unpacked.
pub fn lines(
    signal: Signal,
    body: &[u8],
    is_json: bool,
    is_gzip: bool,
    limit_bytes: usize,
    rollout: &Rollout,
) -> Result<Vec<String>, ApiError> {
    let unpacked;
    let body = match is_gzip {
        true => {
            unpacked = unpack(body, limit_bytes)?;
            unpacked.as_slice()
        }
        false => body,
    };
    let wrong = |error: String| ApiError { param: None, ..ApiError::invalid("", format!("the body is no OTLP: {error}")) };
    let mut message: Value = match (is_json, signal) {
        (true, _) => serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?,
        // A request and the data of a file are alike on the wire.
        (false, Signal::Traces) => json!(TracesData::decode(body).map_err(|error| wrong(error.to_string()))?),
        (false, Signal::Logs) => json!(LogsData::decode(body).map_err(|error| wrong(error.to_string()))?),
    };
    let key = match signal {
        Signal::Traces => "resourceSpans",
        Signal::Logs => "resourceLogs",
    };
    let Some(resources) = message.get_mut(key).and_then(Value::as_array_mut) else {
        return match message.as_object() {
            Some(fields) if fields.is_empty() => Ok(Vec::new()),
            _ => Err(wrong(format!("it has no `{key}`"))),
        };
    };
    let identity = record::identity(rollout);
    Ok(resources.drain(..).map(|resource| json!({ key: [identified(resource, &identity)] }).to_string()).collect())
}

/// The agent does not know whose rollout it is; where it says so nevertheless, the server knows better: of two values the later counts.
fn identified(mut resource: Value, identity: &[Value]) -> Value {
    let Some(fields) = resource.as_object_mut() else { return resource };
    let about = fields.entry("resource").or_insert_with(|| json!({}));
    if !about.is_object() {
        *about = json!({});
    }
    match about["attributes"].as_array_mut() {
        Some(attributes) => attributes.extend_from_slice(identity),
        None => about["attributes"] = json!(identity),
    }
    resource
}

fn unpack(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let mut unpacked = Vec::new();
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
    let read = flate2::read::GzDecoder::new(body).take(limit.saturating_add(1)).read_to_end(&mut unpacked);
    read.map_err(|error| ApiError { param: None, ..ApiError::invalid("", format!("the body is no gzip: {error}")) })?;
    if unpacked.len() > limit_bytes {
        return Err(ApiError::too_large("the unpacked body is larger than `serve.max_trace_mib` allows"));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn rollout() -> Rollout {
        Rollout { id: "r".to_owned(), split: "train".to_owned(), ..Rollout::default() }
    }

    #[test]
    fn a_line_for_each_resource_with_whose_it_is() {
        let body = json!({ "resourceSpans": [{ "resource": { "attributes": [] }, "scopeSpans": [] }, { "scopeSpans": [] }] })
            .to_string();
        let lines = lines(Signal::Traces, body.as_bytes(), true, false, 1000, &rollout()).unwrap();
        assert_eq!(lines.len(), 2);
        for line in lines {
            let line: Value = serde_json::from_str(&line).unwrap();
            let attributes = line["resourceSpans"][0]["resource"]["attributes"].as_array().unwrap();
            assert!(attributes.contains(&json!({ "key": "fulgurite.rollout_id", "value": { "stringValue": "r" } })), "{line}");
        }
        assert_eq!(super::lines(Signal::Logs, b"{}", true, false, 1000, &rollout()), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_otlp_or_too_large_is_refused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&[b' '; 2000]).unwrap();
        let bomb = gzip.finish().unwrap();
        let refused = |body: &[u8], is_json, is_gzip| {
            lines(Signal::Traces, body, is_json, is_gzip, 1000, &rollout()).unwrap_err().status.as_u16()
        };
        assert_eq!(refused(&bomb, true, true), 413);
        assert_eq!(refused(b"no gzip", true, true), 400);
        assert_eq!(refused(b"{\"spans\": []}", true, false), 400);
        assert_eq!(refused(b"\xff\xff", false, false), 400);
    }
}
