//! Rotary position embedding: each pair of a head's channels is turned by its position times the pair's frequency.
//!
//! The pairs are channel `c` and `c + C / 2` (the form of Hugging Face checkpoints). Frequencies, angles, cosines and sines are made in f32
//! whatever the model's kind is, since that is what checkpoints were trained and are served with.
//!
//! Source: Su et al. 2021 (arXiv 2104.09864), eq. 34; scaling: position interpolation (arXiv 2306.15595), YaRN (arXiv 2309.00071) and Llama 3.1.

use std::f64::consts::PI;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::exit::Fault;

/// Frequencies, and how they were stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Wavelengths grow from 2 pi to 2 pi theta positions.
    pub theta: f64,
    pub scaling: Scaling,
}

/// `rope_type` and its numbers. The type `dynamic` and others that depend on the length of the sequence are refused: a token's representation
/// would change as its sequence grows.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_positions: f64 },
    Yarn { factor: f64, original_positions: f64, attention_factor: f64, beta_fast: f64, beta_slow: f64, truncate: bool },
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).
    pub fn from_json(keys: &Map<String, Value>, max_positions: i64) -> Result<Rope> {
        let own = ["rope_parameters", "rope_scaling"].iter().find_map(|key| keys.get(*key).and_then(Value::as_object));
        let number = |key: &str| own.and_then(|own| own.get(key)).and_then(Value::as_f64);
        let required = |key: &str| number(key).with_context(|| format!("rotary embedding without `{key}`"));
        if let Some(value) = number("partial_rotary_factor").filter(|value| *value != 1.0) {
            bail!(Fault::Usage(format!("`partial_rotary_factor` = {value} is not supported")));
        }
        let theta = number("rope_theta").or_else(|| keys.get("rope_theta").and_then(Value::as_f64)).unwrap_or(10_000.0);
        let name =
            own.and_then(|own| own.get("rope_type").or_else(|| own.get("type"))).and_then(Value::as_str).unwrap_or("default");
        // What stands outside goes before what stands inside, as in transformers.
        let original = keys.get("original_max_position_embeddings").and_then(Value::as_f64);
        let original = original.or_else(|| number("original_max_position_embeddings")).unwrap_or(max_positions as f64);
        let scaling = match name {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: required("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_positions: original,
            },
            "yarn" => {
                let factor = number("factor").unwrap_or(max_positions as f64 / original);
                let attention_factor =
                    number("attention_factor").unwrap_or_else(|| match (number("mscale"), number("mscale_all_dim")) {
                        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                            magnitude(factor, mscale) / magnitude(factor, all)
                        }
                        _ => magnitude(factor, 1.0),
                    });
                Scaling::Yarn {
                    factor,
                    original_positions: original,
                    attention_factor,
                    beta_fast: number("beta_fast").filter(|beta| *beta != 0.0).unwrap_or(32.0),
                    beta_slow: number("beta_slow").filter(|beta| *beta != 0.0).unwrap_or(1.0),
                    truncate: own.and_then(|own| own.get("truncate")).and_then(Value::as_bool).unwrap_or(true),
                }
            }
            other => {
                bail!(Fault::Usage(format!("`rope_type` `{other}` is not supported; use one of default, linear, llama3, yarn")))
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// Writes the keys of both forms, unless the file that the configuration came from has them already.
    pub(super) fn put_json(&self, keys: &mut Map<String, Value>) {
        if keys.contains_key("rope_parameters") || keys.contains_key("rope_theta") {
            return;
        }
        let mut own = match &self.scaling {
            Scaling::None => json!({"rope_type": "default"}),
            Scaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": *original_positions as i64,
            }),
            Scaling::Yarn { factor, original_positions, attention_factor, beta_fast, beta_slow, truncate } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": *original_positions as i64,
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
            }),
        };
        keys.insert("rope_theta".to_owned(), json!(self.theta));
        if self.scaling != Scaling::None {
            keys.insert("rope_scaling".to_owned(), own.clone());
        }
        own["rope_theta"] = json!(self.theta);
        keys.insert("rope_parameters".to_owned(), own);
    }

    /// Radians a position for each pair of channels: `[C / 2]`, f32.
    pub fn frequencies(&self, head_dim: i64, device: Device) -> Tensor {
        // The order of these f32 operations is that of transformers: at position 8000 another order is a different angle.
        let powers_c = Tensor::arange_start_step(0, head_dim, 2, (Kind::Float, device)) / head_dim as f64;
        let periods_c = Tensor::pow_scalar(self.theta, &powers_c);
        let plain_c = periods_c.reciprocal();
        match &self.scaling {
            Scaling::None => plain_c,
            Scaling::Linear { factor } => plain_c / *factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let wavelengths_c = plain_c.reciprocal() * (2.0 * PI);
                let (longest, shortest) = (original_positions / low_freq_factor, original_positions / high_freq_factor);
                let scaled_c = &plain_c / *factor;
                let smooth_c =
                    (wavelengths_c.reciprocal() * *original_positions - *low_freq_factor) / (high_freq_factor - low_freq_factor);
                let between_c = (1.0 - &smooth_c) * &plain_c / *factor + &smooth_c * &plain_c;
                let far_c = scaled_c.where_self(&wavelengths_c.gt(longest), &between_c);
                plain_c.where_self(&wavelengths_c.lt(shortest), &far_c)
            }
            Scaling::Yarn { factor, original_positions, beta_fast, beta_slow, truncate, .. } => {
                // The pair that turns `rotations` times over the original context.
                let pair_at = |rotations: f64| {
                    head_dim as f64 * (original_positions / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (pair_at(*beta_fast), pair_at(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min((head_dim - 1) as f64));
                if low == high {
                    high += 0.001;
                }
                let ramp_c = ((Tensor::arange(head_dim / 2, (Kind::Float, device)) - low) / (high - low)).clamp(0.0, 1.0);
                let kept_c = 1.0 - ramp_c;
                (periods_c * *factor).reciprocal() * (1.0 - &kept_c) + plain_c * kept_c
            }
        }
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }
}

/// YaRN, eq. 22: attention grows sharper with the logarithm of the stretch.
fn magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

/// Cosines and sines of some positions.
#[derive(Debug)]
pub struct Rotations {
    /// `[N, 1, C]`, the same in both halves.
    pub cosines_n1c: Tensor,
    /// `[N, 1, C]`, negative in the first half.
    pub sines_n1c: Tensor,
}

impl Rotations {
    /// * `frequencies_c`: `[C / 2]`, of `Rope::frequencies`.
    /// * `positions_n`: `[N]`, whole numbers, not necessarily growing.
    pub fn new(rope: &Rope, frequencies_c: &Tensor, positions_n: &Tensor, kind: Kind) -> Rotations {
        let angles_nc = positions_n.to_kind(Kind::Float).unsqueeze(-1) * frequencies_c;
        let factor = rope.attention_factor();
        let (cosines_nc, sines_nc) = (angles_nc.cos() * factor, angles_nc.sin() * factor);
        Rotations {
            cosines_n1c: Tensor::cat(&[&cosines_nc, &cosines_nc], -1).unsqueeze(1).to_kind(kind),
            sines_n1c: Tensor::cat(&[&sines_nc.neg(), &sines_nc], -1).unsqueeze(1).to_kind(kind),
        }
    }

    /// Turns the channels of every head: `[N, H, C]` -> `[N, H, C]`.
    pub fn apply(&self, x_nhc: &Tensor) -> Tensor {
        let half = x_nhc.size()[2] / 2;
        x_nhc * &self.cosines_n1c + x_nhc.roll([half], [2]) * &self.sines_n1c
    }

    /// The rotations of some of the tokens: `[start, start + length)`.
    pub fn narrow(&self, start: i64, length: i64) -> Rotations {
        Rotations { cosines_n1c: self.cosines_n1c.narrow(0, start, length), sines_n1c: self.sines_n1c.narrow(0, start, length) }
    }
}
