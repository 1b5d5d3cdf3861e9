//! A policy's transformer: Llama, Qwen2, Qwen3 and SmolLM2 (which is `llama`) as plain functions on tensors.
//!
//! Tokens of any number of sequences lie one after another on one axis, `n`; a layer asks its caller to attend. Who sees whom, and what is kept
//! for later, is thereby decided once for training (`train::forest`) and once for inference (`generate`), over the same layer.
//!
//! Axes of tensors: `n` token, `d` width, `h` query head, `g` key and value head, `c` channel of a head, `v` vocabulary, `o` and `i` the
//! outputs and inputs of a projection, `r` rank of an adapter.

pub mod attend;
pub mod config;
pub mod forward;
pub mod gguf;
pub mod lora;
pub mod memory;
pub mod rope;
pub mod safetensors;
pub mod weights;

use tch::{Device, Kind, Tensor};

pub use config::{Architecture, ModelConfig};
pub use rope::{Rope, Rotations};

/// The weights of a policy, and what they mean.
#[derive(Debug)]
pub struct Model {
    pub config: ModelConfig,
    /// `[V, D]`.
    pub embedding_vd: Tensor,
    pub layers: Vec<Layer>,
    /// `[D]`: the scale of the norm after the last layer.
    pub norm_d: Tensor,
    /// `[V, D]`; `None` where the embedding is the head too.
    pub head_vd: Option<Tensor>,
    /// `[C / 2]`, f32: radians a position for each pair of channels.
    frequencies_c: Tensor,
}

/// One block: attention, then a gated feed-forward, each added to what comes in.
#[derive(Debug)]
pub struct Layer {
    /// `[D]`.
    pub attention_norm_d: Tensor,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    /// `[C]`: Qwen3 norms each head's queries and keys.
    pub query_norm_c: Option<Tensor>,
    pub key_norm_c: Option<Tensor>,
    /// `[D]`.
    pub mlp_norm_d: Tensor,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// One projection, `x W^T + b`, and what an adapter adds to it.
#[derive(Debug)]
pub struct Linear {
    /// `[O, I]`.
    pub weight_oi: Tensor,
    /// `[O]`.
    pub bias_o: Option<Tensor>,
    pub lora: Option<Lora>,
}

/// What an adapter adds to a projection: `scale * (x A^T) B^T`.
#[derive(Debug)]
pub struct Lora {
    /// `[R, I]`.
    pub a_ri: Tensor,
    /// `[O, R]`.
    pub b_or: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

impl Model {
    pub fn device(&self) -> Device {
        self.embedding_vd.device()
    }

    pub fn kind(&self) -> Kind {
        self.embedding_vd.kind()
    }

    /// The same weights, shared, without an adapter: the reference policy of a run that trains one. Costs no memory.
    pub fn without_adapter(&self) -> Model {
        Model {
            config: self.config.clone(),
            embedding_vd: self.embedding_vd.shallow_clone(),
            layers: self.layers.iter().map(Layer::without_adapter).collect(),
            norm_d: self.norm_d.shallow_clone(),
            head_vd: self.head_vd.as_ref().map(Tensor::shallow_clone),
            frequencies_c: self.frequencies_c.shallow_clone(),
        }
    }
}

impl Layer {
    /// Every projection, with the last part of its name in a Hugging Face checkpoint.
    pub fn projections(&self) -> [(&'static str, &Linear); 7] {
        [
            ("self_attn.q_proj", &self.query),
            ("self_attn.k_proj", &self.key),
            ("self_attn.v_proj", &self.value),
            ("self_attn.o_proj", &self.output),
            ("mlp.gate_proj", &self.gate),
            ("mlp.up_proj", &self.up),
            ("mlp.down_proj", &self.down),
        ]
    }

    fn without_adapter(&self) -> Layer {
        let bare = |linear: &Linear| Linear {
            weight_oi: linear.weight_oi.shallow_clone(),
            bias_o: linear.bias_o.as_ref().map(Tensor::shallow_clone),
            lora: None,
        };
        Layer {
            attention_norm_d: self.attention_norm_d.shallow_clone(),
            query: bare(&self.query),
            key: bare(&self.key),
            value: bare(&self.value),
            output: bare(&self.output),
            query_norm_c: self.query_norm_c.as_ref().map(Tensor::shallow_clone),
            key_norm_c: self.key_norm_c.as_ref().map(Tensor::shallow_clone),
            mlp_norm_d: self.mlp_norm_d.shallow_clone(),
            gate: bare(&self.gate),
            up: bare(&self.up),
            down: bare(&self.down),
        }
    }
}

#[cfg(test)]
mod tests;
