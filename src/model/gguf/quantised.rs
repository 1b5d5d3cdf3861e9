//! Quantised blocks into f32. Each format packs 32 or 256 numbers with a scale; the layouts are those of ggml.

use anyhow::{Result, bail, ensure};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::exit::Fault;

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantisation {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4K,
    Q6K,
}

/// The names of ggml's types, by number; those without one were never in use or have gone.
const NAMES: [&str; 31] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",
    "BF16",
];

impl Quantisation {
    pub(super) fn from_number(number: u32) -> Result<Quantisation> {
        let name = NAMES.get(number as usize).copied().unwrap_or_default();
        Ok(match name {
            "F32" => Quantisation::F32,
            "F16" => Quantisation::F16,
            "BF16" => Quantisation::Bf16,
            "Q8_0" => Quantisation::Q8_0,
            "Q4_0" => Quantisation::Q4_0,
            "Q4_1" => Quantisation::Q4_1,
            "Q4_K" => Quantisation::Q4K,
            "Q6_K" => Quantisation::Q6K,
            "" => bail!(Fault::Usage(format!("quantisation {number} is not known"))),
            other => {
                let message =
                    format!("quantisation `{other}` is not supported; use one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K");
                bail!(Fault::Usage(message))
            }
        })
    }

    /// Numbers in a block, and the bytes that it takes.
    fn block(self) -> (usize, usize) {
        match self {
            Quantisation::F32 => (1, 4),
            Quantisation::F16 | Quantisation::Bf16 => (1, 2),
            Quantisation::Q8_0 => (32, 2 + 32),
            Quantisation::Q4_0 => (32, 2 + 16),
            Quantisation::Q4_1 => (32, 4 + 16),
            Quantisation::Q4K => (256, 4 + 12 + 128),
            Quantisation::Q6K => (256, 128 + 64 + 16 + 2),
        }
    }

    /// The bytes that `count` numbers take.
    pub(super) fn size_bytes(self, count: usize) -> Result<usize> {
        let (numbers, bytes) = self.block();
        ensure!(count.is_multiple_of(numbers), "{count} numbers are no whole number of blocks of {numbers}");
        (count / numbers).checked_mul(bytes).ok_or_else(|| anyhow::anyhow!("{count} numbers are too many"))
    }

    /// The numbers that some whole blocks stand for.
    pub(super) fn dequantise(self, packed: &[u8]) -> Vec<f32> {
        let (numbers, bytes) = self.block();
        // Many blocks a piece: one alone is less work than handing it to a thread.
        let blocks = 4096 / numbers.min(256);
        let mut values = vec![0.0; packed.len() / bytes * numbers];
        values.par_chunks_mut(numbers * blocks).zip(packed.par_chunks(bytes * blocks)).for_each(|(values, packed)| {
            for (values, packed) in values.chunks_exact_mut(numbers).zip(packed.chunks_exact(bytes)) {
                self.unpack(packed, values);
            }
        });
        values
    }

    fn unpack(self, packed: &[u8], values: &mut [f32]) {
        match self {
            Quantisation::F32 => values[0] = f32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]),
            Quantisation::F16 => values[0] = half_at(packed, 0),
            Quantisation::Bf16 => values[0] = bf16::from_le_bytes([packed[0], packed[1]]).to_f32(),
            Quantisation::Q8_0 => {
                let scale = half_at(packed, 0);
                for (value, byte) in values.iter_mut().zip(&packed[2..]) {
                    *value = scale * f32::from(*byte as i8);
                }
            }
            Quantisation::Q4_0 => {
                let scale = half_at(packed, 0);
                nibbles(&packed[2..], values, |nibble| scale * (nibble - 8.0));
            }
            Quantisation::Q4_1 => {
                let (scale, least) = (half_at(packed, 0), half_at(packed, 2));
                nibbles(&packed[4..], values, |nibble| scale * nibble + least);
            }
            Quantisation::Q4K => unpack_q4_k(packed, values),
            Quantisation::Q6K => unpack_q6_k(packed, values),
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The lower halves of all bytes, then the upper ones.
fn nibbles(bytes: &[u8], values: &mut [f32], value_of: impl Fn(f32) -> f32) {
    let (lower, upper) = values.split_at_mut(bytes.len());
    for ((lower, upper), byte) in lower.iter_mut().zip(upper).zip(bytes) {
        *lower = value_of(f32::from(byte & 15));
        *upper = value_of(f32::from(byte >> 4));
    }
}

/// Eight groups of 32 numbers, each with a scale and a least value of six bits, which are packed into twelve bytes.
fn unpack_q4_k(packed: &[u8], values: &mut [f32]) {
    let (scale, least_scale) = (half_at(packed, 0), half_at(packed, 2));
    let (sixes, bytes) = packed[4..].split_at(12);
    let scale_and_least = |group: usize| match group {
        0..4 => (sixes[group] & 63, sixes[group + 4] & 63),
        _ => {
            let both = sixes[group + 4];
            ((both & 15) | (sixes[group - 4] >> 6 << 4), (both >> 4) | (sixes[group] >> 6 << 4))
        }
    };
    for (pair, (values, bytes)) in values.chunks_exact_mut(64).zip(bytes.chunks_exact(32)).enumerate() {
        let (lower, upper) = values.split_at_mut(32);
        for (half, values) in [lower, upper].into_iter().enumerate() {
            let (group_scale, group_least) = scale_and_least(2 * pair + half);
            let (group_scale, group_least) = (scale * f32::from(group_scale), least_scale * f32::from(group_least));
            for (value, byte) in values.iter_mut().zip(bytes) {
                *value = group_scale * f32::from((byte >> (4 * half)) & 15) - group_least;
            }
        }
    }
}

/// Sixteen groups of 16 numbers with a scale each; four bits of a number lie in the first 128 bytes, two in the next 64.
fn unpack_q6_k(packed: &[u8], values: &mut [f32]) {
    let (fours, rest) = packed.split_at(128);
    let (twos, rest) = rest.split_at(64);
    let scale = half_at(rest, 16);
    for (at, value) in values.iter_mut().enumerate() {
        let (part, group, lane) = (at / 128, at / 32 % 4, at % 32);
        let four = fours[64 * part + 32 * (group % 2) + lane] >> (4 * (group / 2)) & 15;
        let two = twos[32 * part + lane] >> (2 * group) & 3;
        let group_scale = scale * f32::from(rest[at / 16] as i8);
        *value = group_scale * (f32::from(four | two << 4) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::safetensors::read_all;

    /// Against the package `gguf`: see `scripts/fixtures/models.py`.
    #[test]
    fn blocks_stand_for_the_numbers_that_gguf_reads() {
        let tensors = read_all(&crate::model::tests::fixtures().join("quantised.safetensors")).unwrap();
        for (number, name) in NAMES.iter().enumerate() {
            let Some(packed) = tensors.get(&format!("{name}.packed")) else { continue };
            let packed: Vec<u8> = Vec::try_from(packed.view([-1])).unwrap();
            let expected: Vec<f32> = Vec::try_from(tensors[&format!("{name}.values")].view([-1])).unwrap();
            let kind = Quantisation::from_number(number as u32).unwrap();
            assert_eq!(kind.size_bytes(expected.len()).unwrap(), packed.len(), "{name}");
            assert_eq!(kind.dequantise(&packed), expected, "{name}");
        }
        assert_eq!(tensors.len(), 14);
    }

    #[test]
    fn an_unknown_quantisation_is_named() {
        let error = Quantisation::from_number(23).unwrap_err();
        assert!(error.to_string().contains("`IQ4_XS` is not supported"), "{error}");
    }
}
