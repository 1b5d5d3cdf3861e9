//! A model out of a GGUF file: its configuration in the words of Hugging Face, and its weights under their names and in their order.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, json};
use tch::{Device, Kind, Tensor};

use super::quantised::Quantisation;
use super::{Gguf, Info, Value};
use crate::exit::Fault;
use crate::model::weights::shapes;
use crate::model::{Architecture, Model, ModelConfig};

/// Factors by which files of Llama 3.1 and later divide each rotary frequency.
const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Gguf {
    /// The configuration of the model in this file.
    pub fn config(&self) -> Result<ModelConfig> {
        let name = self.architecture()?;
        let architecture = Architecture::from_name(name).with_context(|| format!("in `{}`", self.path.display()))?;
        if let Some(parts) = self.metadata.get("split.count").and_then(Value::as_i64).filter(|parts| *parts > 1) {
            bail!(Fault::Usage(format!("`{}` is one of {parts} parts of a model; join them first", self.path.display())));
        }
        let value = |key: &str| self.metadata.get(&format!("{name}.{key}"));
        let integer = |key: &str| value(key).and_then(Value::as_i64);
        let required =
            |key: &str| integer(key).with_context(|| Fault::Usage(format!("`{}` has no `{name}.{key}`", self.path.display())));
        for key in ["expert_count", "attention.sliding_window"] {
            if let Some(number) = integer(key).filter(|number| *number > 0) {
                bail!(Fault::Usage(format!("`{name}.{key}` = {number} is not supported")));
            }
        }
        let (hidden_size, heads) = (required("embedding_length")?, required("attention.head_count")?);
        ensure!(heads > 0, "`{name}.attention.head_count` is {heads}");
        let head_dim = integer("attention.key_length").unwrap_or(hidden_size / heads);
        if let Some(rotated) = integer("rope.dimension_count").filter(|rotated| *rotated != head_dim) {
            bail!(Fault::Usage(format!("heads have {head_dim} channels, of which {rotated} are rotated: that is not supported")));
        }
        let embedding = self.tensors.get("token_embd.weight").context("tensor `token_embd.weight` is missing")?;
        let eps = value("attention.layer_norm_rms_epsilon").and_then(Value::as_f64).map(shortest);

        let mut keys = Map::new();
        let mut set = |key: &str, value: serde_json::Value| keys.insert(key.to_owned(), value);
        set("architectures", json!([architecture.class()]));
        set("model_type", json!(name));
        set("vocab_size", json!(embedding.shape.first()));
        set("hidden_size", json!(hidden_size));
        set("intermediate_size", json!(required("feed_forward_length")?));
        set("num_hidden_layers", json!(required("block_count")?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(integer("attention.head_count_kv").unwrap_or(heads)));
        set("head_dim", json!(head_dim));
        set("hidden_act", json!("silu"));
        set("max_position_embeddings", json!(required("context_length")?));
        set("rms_norm_eps", json!(eps.with_context(|| format!("`{name}.attention.layer_norm_rms_epsilon` is missing"))?));
        set("tie_word_embeddings", json!(!self.tensors.contains_key("output.weight")));
        if architecture != Architecture::Qwen2 {
            set("attention_bias", json!(self.tensors.contains_key("blk.0.attn_q.bias")));
        }
        for (key, theirs) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            let id = self.metadata.get(&format!("tokenizer.ggml.{theirs}_token_id")).and_then(Value::as_i64);
            set(key, json!(id));
        }
        let theta = value("rope.freq_base").and_then(Value::as_f64).map_or(10_000.0, shortest);
        set("rope_theta", json!(theta));
        if let Some(scaling) = self.rope_scaling(name, theta, head_dim)? {
            set("rope_scaling", scaling);
        }
        ModelConfig::from_json(serde_json::Value::Object(keys)).with_context(|| format!("in `{}`", self.path.display()))
    }

    fn rope_scaling(&self, name: &str, theta: f64, head_dim: i64) -> Result<Option<serde_json::Value>> {
        let number = |key: &str| self.metadata.get(&format!("{name}.rope.scaling.{key}")).and_then(Value::as_f64);
        let kind = self.metadata.get(&format!("{name}.rope.scaling.type")).and_then(Value::as_str).unwrap_or("none");
        let factor = || number("factor").map(shortest).context("rotary scaling without `factor`");
        if let Some(info) = self.tensors.get(ROPE_FACTORS) {
            return Ok(Some(llama3_of(&self.values(ROPE_FACTORS, info)?, theta, head_dim)?));
        }
        Ok(match kind {
            "none" => None,
            "linear" => Some(json!({"rope_type": "linear", "factor": factor()?})),
            "yarn" => {
                let original = number("original_context_length").context("rotary scaling without `original_context_length`")?;
                let original = original as i64;
                Some(json!({"rope_type": "yarn", "factor": factor()?, "original_max_position_embeddings": original}))
            }
            other => bail!(Fault::Usage(format!("rotary scaling `{other}` is not supported; use one of none, linear, yarn"))),
        })
    }

    /// The numbers of one tensor.
    fn values(&self, name: &str, info: &Info) -> Result<Vec<f32>> {
        let kind = Quantisation::from_number(info.kind).with_context(|| format!("tensor `{name}`"))?;
        let count = info.shape.iter().try_fold(1usize, |count, size| count.checked_mul(usize::try_from(*size).ok()?));
        let count = count.with_context(|| format!("tensor `{name}` has the shape {:?}", info.shape))?;
        let length = kind.size_bytes(count).with_context(|| format!("tensor `{name}`"))?;
        let start = usize::try_from(info.offset).ok().and_then(|offset| self.data.checked_add(offset));
        let packed = start.and_then(|start| self.bytes.get(start..start.checked_add(length)?));
        let packed = packed.with_context(|| format!("tensor `{name}` lies past the end of `{}`", self.path.display()))?;
        Ok(kind.dequantise(packed))
    }
}

impl Model {
    /// Dequantises the weights of a GGUF file into `kind` on `device`.
    ///
    /// Fails, naming it, at a tensor that is missing, has another shape or quantisation than are known, or has no place in the model.
    pub fn from_gguf(file: &Gguf, device: Device, kind: Kind) -> Result<Model> {
        let config = file.config()?;
        let mut tensors = BTreeMap::new();
        let mut known = vec![ROPE_FACTORS.to_owned()];
        for (name, shape) in shapes(&config) {
            let theirs = their_name(&name);
            let info = file.tensors.get(&theirs);
            let info =
                info.with_context(|| Fault::Usage(format!("tensor `{theirs}` is missing from `{}`", file.path.display())))?;
            ensure!(
                info.shape == shape,
                Fault::Usage(format!("tensor `{theirs}` has the shape {:?}, not {shape:?}", info.shape))
            );
            let mut tensor = Tensor::f_from_slice(&file.values(&theirs, info)?)?.f_view(shape.as_slice())?;
            if config.architecture == Architecture::Llama && (name.contains(".q_proj.") || name.contains(".k_proj.")) {
                tensor = apart(&tensor, config.head_dim);
            }
            tensors.insert(name, tensor.f_to_device(device)?.f_to_kind(kind)?);
            known.push(theirs);
        }
        known.sort_unstable();
        if let Some(name) = file.tensors.keys().find(|name| known.binary_search(name).is_err()) {
            bail!(Fault::Usage(format!(
                "`{}` has a tensor `{name}` that a {} has no place for",
                file.path.display(),
                file.architecture()?
            )));
        }
        Model::from_tensors(config, tensors)
    }
}

/// What a tensor of a checkpoint is called in GGUF.
fn their_name(name: &str) -> String {
    let Some((index, rest)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            _ => "output.weight",
        }
        .to_owned();
    };
    let (part, last) = rest.rsplit_once('.').unwrap_or((rest, ""));
    let theirs = match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        other => other,
    };
    format!("blk.{index}.{theirs}.{last}")
}

/// Files of the architecture `llama` have the two channels of a rotated pair side by side; here they are half a head apart.
fn apart(rows: &Tensor, head_dim: i64) -> Tensor {
    let shape = rows.size();
    rows.reshape([shape[0] / head_dim, head_dim / 2, 2, -1]).transpose(1, 2).reshape(shape)
}

/// The decimal number that was written as this f32: 1e-5 and not 9.999999747378752e-6, as the checkpoint had it.
fn shortest(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

/// The settings behind the factors of Llama 3.1 and later: all have these three numbers, and differ in the largest factor.
fn llama3_of(factors_c: &[f32], theta: f64, head_dim: i64) -> Result<serde_json::Value> {
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let factor = factors_c.iter().copied().fold(1.0f32, f32::max);
    let expected_c = (0..head_dim / 2).map(|pair| {
        let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * pair as f64 / head_dim as f64);
        let smooth: f64 = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
    });
    let near = |(found, expected): (&f32, f64)| (f64::from(*found) / expected - 1.0).abs() < 1e-3;
    if factors_c.len() as i64 != head_dim / 2 || !factors_c.iter().zip(expected_c).all(near) {
        bail!(Fault::Usage(format!("the rotary factors of `{ROPE_FACTORS}` are not those of Llama 3.1 or later")));
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original as i64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{fixtures, off};

    #[test]
    fn a_file_gives_the_logits_of_the_checkpoint_it_was_made_from() {
        let _guard = tch::no_grad_guard();
        for name in ["llama_biased", "qwen2", "qwen3"] {
            let file = Gguf::open(&fixtures().join(format!("{name}.gguf"))).unwrap();
            let model = Model::from_gguf(&file, Device::Cpu, Kind::Double).unwrap();
            let off = off(&model, name, "logits_f64");
            assert!(off < 1e-9, "{name}: off by {off:e}");
            let tokens = file.required("tokenizer.ggml.tokens").unwrap().as_list().unwrap();
            assert_eq!((tokens.len(), tokens[30].as_str()), (31, Some("token 30")));
        }
    }

    #[test]
    fn factors_of_llama_3_give_its_settings() {
        // theta 4, four channels: wavelengths 2 pi and 4 pi are short, and kept.
        let kept = llama3_of(&[1.0, 1.0], 4.0, 4).unwrap();
        assert_eq!(kept["factor"], 1.0);
        // theta 1e12: wavelengths 2 pi and 2 pi 1e6, the second far longer than 8192.
        assert_eq!(llama3_of(&[1.0, 32.0], 1e12, 4).unwrap()["factor"], 32.0);
        assert!(llama3_of(&[2.0, 32.0], 1e12, 4).is_err());
    }
}
