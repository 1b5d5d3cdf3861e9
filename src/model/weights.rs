//! The names and shapes of a model's weights in a Hugging Face checkpoint, and a model put together from them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{Layer, Linear, Model, ModelConfig};

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

/// Every weight of a model by its name, with its shape.
pub fn shapes(config: &ModelConfig) -> BTreeMap<String, Vec<i64>> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut shapes = BTreeMap::new();
    let mut put = |name: String, shape: &[i64]| shapes.insert(name, shape.to_vec());
    put(EMBEDDING.to_owned(), &[config.vocab_size, width]);
    put(NORM.to_owned(), &[width]);
    if !config.tie_word_embeddings {
        put(HEAD.to_owned(), &[config.vocab_size, width]);
    }
    for index in 0..config.layers {
        let prefix = format!("model.layers.{index}");
        let projections = [
            ("self_attn.q_proj", queries, width, config.attention_bias),
            ("self_attn.k_proj", keys, width, config.attention_bias),
            ("self_attn.v_proj", keys, width, config.attention_bias),
            ("self_attn.o_proj", width, queries, config.output_bias()),
            ("mlp.gate_proj", inner, width, false),
            ("mlp.up_proj", inner, width, false),
            ("mlp.down_proj", width, inner, false),
        ];
        for (name, outputs, inputs, bias) in projections {
            put(format!("{prefix}.{name}.weight"), &[outputs, inputs]);
            if bias {
                put(format!("{prefix}.{name}.bias"), &[outputs]);
            }
        }
        put(format!("{prefix}.input_layernorm.weight"), &[width]);
        put(format!("{prefix}.post_attention_layernorm.weight"), &[width]);
        if config.qk_norm {
            put(format!("{prefix}.self_attn.q_norm.weight"), &[config.head_dim]);
            put(format!("{prefix}.self_attn.k_norm.weight"), &[config.head_dim]);
        }
    }
    shapes
}

impl Model {
    /// Puts a model together.
    ///
    /// * `tensors`: by name, each of the shape that `shapes` says, all of one kind and on one device.
    pub fn from_tensors(config: ModelConfig, mut tensors: BTreeMap<String, Tensor>) -> Result<Model> {
        let mut take = |name: String| tensors.remove(&name).with_context(|| format!("tensor `{name}` is missing"));
        let embedding_vd = take(EMBEDDING.to_owned())?;
        let norm_d = take(NORM.to_owned())?;
        let head_vd = if config.tie_word_embeddings { None } else { Some(take(HEAD.to_owned())?) };
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let prefix = format!("model.layers.{index}");
            let mut linear = |name: &str, bias: bool| -> Result<Linear> {
                let weight_oi = take(format!("{prefix}.{name}.weight"))?;
                let bias_o = if bias { Some(take(format!("{prefix}.{name}.bias"))?) } else { None };
                Ok(Linear { weight_oi, bias_o, lora: None })
            };
            let query = linear("self_attn.q_proj", config.attention_bias)?;
            let key = linear("self_attn.k_proj", config.attention_bias)?;
            let value = linear("self_attn.v_proj", config.attention_bias)?;
            let output = linear("self_attn.o_proj", config.output_bias())?;
            let (gate, up, down) =
                (linear("mlp.gate_proj", false)?, linear("mlp.up_proj", false)?, linear("mlp.down_proj", false)?);
            let mut head_norm =
                |name: &str| config.qk_norm.then(|| take(format!("{prefix}.self_attn.{name}.weight"))).transpose();
            let (query_norm_c, key_norm_c) = (head_norm("q_norm")?, head_norm("k_norm")?);
            layers.push(Layer {
                attention_norm_d: take(format!("{prefix}.input_layernorm.weight"))?,
                query,
                key,
                value,
                output,
                query_norm_c,
                key_norm_c,
                mlp_norm_d: take(format!("{prefix}.post_attention_layernorm.weight"))?,
                gate,
                up,
                down,
            });
        }
        let frequencies_c = config.rope.frequencies(config.head_dim, embedding_vd.device());
        Ok(Model { config, embedding_vd, layers, norm_d, head_vd, frequencies_c })
    }

    /// A model to train from nothing, initialised as transformers does: normal with deviation 0.02, norms 1, biases 0.
    ///
    /// The same seed gives the same weights, whatever the kind and device.
    pub fn random(config: ModelConfig, seed: u64, device: Device, kind: Kind) -> Result<Model> {
        let filled = shapes(&config).into_iter().map(|(name, shape)| {
            let tensor_cpu = if name.ends_with("norm.weight") {
                Tensor::ones(&shape, (Kind::Float, Device::Cpu))
            } else if name.ends_with(".bias") {
                Tensor::zeros(&shape, (Kind::Float, Device::Cpu))
            } else {
                normal(&mut generator(seed, &name), &shape) * 0.02
            };
            (name, tensor_cpu.to_device(device).to_kind(kind))
        });
        let tensors = filled.collect();
        Model::from_tensors(config, tensors)
    }

    /// Every weight under its name in a Hugging Face checkpoint, sorted by it; without an adapter's. The tensors are shared, not copied.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = vec![(EMBEDDING.to_owned(), &self.embedding_vd), (NORM.to_owned(), &self.norm_d)];
        parameters.extend(self.head_vd.iter().map(|head_vd| (HEAD.to_owned(), head_vd)));
        for (index, layer) in self.layers.iter().enumerate() {
            let prefix = format!("model.layers.{index}");
            parameters.push((format!("{prefix}.input_layernorm.weight"), &layer.attention_norm_d));
            parameters.push((format!("{prefix}.post_attention_layernorm.weight"), &layer.mlp_norm_d));
            parameters.extend(layer.query_norm_c.iter().map(|norm_c| (format!("{prefix}.self_attn.q_norm.weight"), norm_c)));
            parameters.extend(layer.key_norm_c.iter().map(|norm_c| (format!("{prefix}.self_attn.k_norm.weight"), norm_c)));
            for (name, linear) in layer.projections() {
                parameters.push((format!("{prefix}.{name}.weight"), &linear.weight_oi));
                parameters.extend(linear.bias_o.iter().map(|bias_o| (format!("{prefix}.{name}.bias"), bias_o)));
            }
        }
        parameters.sort_by(|left, right| left.0.cmp(&right.0));
        parameters.into_iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect()
    }
}

/// The generator of one tensor: what it gives depends on nothing but the seed and the tensor's name.
pub(super) fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Standard normal numbers by the method of Box and Muller: `shape`, f32, on the CPU.
fn normal(generator: &mut ChaCha8Rng, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let pair = |_| {
        let (radius, angle) = (uniform(generator), uniform(generator));
        // 1 - u is above 0, so that the logarithm is finite.
        let (radius, angle) = ((-2.0 * (1.0 - radius).ln()).sqrt(), angle * std::f64::consts::TAU);
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    let numbers: Vec<f32> = (0..count.div_ceil(2)).flat_map(pair).take(count).collect();
    Tensor::from_slice(&numbers).view(shape)
}

/// From 0 to 1, without 1, in steps of 2^-53.
pub(super) fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
