//! One pass of the model over the tokens of a step, with keys and values in the cache's blocks.
//!
//! The engine has weights of its own: adapters are merged, projections that read the same input lie in one matrix, and the scales of the
//! norms before them are multiplied in. Channels of queries and keys are reordered so that those that rotate together are neighbours,
//! which makes the rotary embedding one product of complex numbers; query heads so that those of one key head are apart by the number
//! of key heads, which spares copies. None of it changes a result beyond rounding.
//!
//! Axes beside those of `model`: `r` query head of a key head, `s` token of the cache, `m` row whose logits are wanted.

use tch::{Kind, Tensor};

use super::attend::{Attention, attend};
use super::product::Matrix;
use crate::model::{Layer, Linear, Model, ModelConfig, Rotations};

pub struct Forward {
    config: ModelConfig,
    embedding_vd: Tensor,
    layers: Vec<FusedLayer>,
    norm_d: Tensor,
    /// `[D, V]`.
    head_dv: Matrix,
    frequencies_c: Tensor,
    /// For each layer `[2 G, S, C]`: keys, then values.
    cache: Vec<Tensor>,
}

/// Matrices are `[I, O]`, as products take them.
struct FusedLayer {
    /// Outputs: queries `[R, G, C]`, keys `[G, C]`, values `[G, C]`.
    qkv_io: Matrix,
    qkv_bias_o: Option<Tensor>,
    /// `[R + 1, G, C]`: Qwen3's scales of queries and keys, head by head.
    qk_norm: Option<Tensor>,
    output_io: Matrix,
    output_bias_o: Option<Tensor>,
    /// Outputs: gate, then up.
    gate_up_io: Matrix,
    down_io: Matrix,
}

/// Bytes that a token of context takes in the cache of this model.
pub fn token_bytes(config: &ModelConfig, kind: Kind) -> u64 {
    2 * (config.layers * config.kv_heads * config.head_dim) as u64 * kind.elt_size_in_bytes() as u64
}

impl Forward {
    /// * `slots`: tokens that the cache holds.
    ///
    /// Fails where the cache cannot be allocated. Takes the model, so that its separate matrices are freed as they are fused.
    pub fn new(model: Model, slots: usize) -> anyhow::Result<Forward> {
        let config = model.config.clone();
        let options = (model.kind(), model.device());
        let frequencies_c = config.rope.frequencies(config.head_dim, model.device());
        let head_dv = Matrix::new(&model.head_vd.as_ref().unwrap_or(&model.embedding_vd).tr());
        let layers = model.layers.into_iter().map(|layer| FusedLayer::new(&config, layer)).collect();
        // Not filled: memory that is never used is never taken, and nothing reads a slot before it is written.
        let size = [2 * config.kv_heads, slots as i64, config.head_dim];
        let cache = (0..config.layers).map(|_| Tensor::f_empty(size, options)).collect::<Result<_, _>>()?;
        Ok(Forward { embedding_vd: model.embedding_vd, norm_d: model.norm_d, config, layers, head_dv, frequencies_c, cache })
    }

    pub fn kind(&self) -> Kind {
        self.embedding_vd.kind()
    }

    pub fn device(&self) -> tch::Device {
        self.embedding_vd.device()
    }

    /// Empties these blocks of the cache: what was never written there need not be a number, nor what a broken pass left.
    pub fn clear(&self, blocks: &Tensor, block_tokens: i64) {
        for cache in &self.cache {
            let _ = cache.view([2 * self.config.kv_heads, -1, block_tokens, self.config.head_dim]).index_fill_(1, blocks, 0.0);
        }
    }

    /// Copies blocks of the cache onto others, as they all are before.
    pub fn copy(&self, from: &Tensor, to: &Tensor, block_tokens: i64) {
        for cache in &self.cache {
            let mut blocks = cache.view([2 * self.config.kv_heads, -1, block_tokens, self.config.head_dim]);
            let _ = blocks.index_copy_(1, to, &blocks.index_select(1, from));
        }
    }

    /// Computes the step's keys, values and logits.
    ///
    /// * `ids_n`, `positions_n`: the tokens and their places in their sequences.
    /// * `slots_k`: where in the cache the keys and values of the first `K` rows go; rows after them are padding.
    /// * `wanted_m`: rows whose logits are wanted; none where it is `None`.
    ///
    /// Returns `[M, V]`, f32.
    pub fn step(
        &self,
        ids_n: &Tensor,
        positions_n: &Tensor,
        slots_k: &Tensor,
        attention: &Attention,
        wanted_m: Option<&Tensor>,
    ) -> Option<Tensor> {
        let rotation_n1c = self.rotations(positions_n);
        let mut x_nd = Tensor::embedding(&self.embedding_vd, ids_n, -1, false, false);
        for (layer, cache) in self.layers.iter().zip(&self.cache) {
            x_nd = self.layer(layer, cache, x_nd, &rotation_n1c, slots_k, attention);
        }
        let x_md = x_nd.index_select(0, wanted_m?);
        let normed_md = normalise(&x_md, self.config.rms_norm_eps) * &self.norm_d;
        Some(self.head_dv.product(&normed_md).to_kind(Kind::Float))
    }

    /// `[N, 1, C / 2]`, complex.
    fn rotations(&self, positions_n: &Tensor) -> Tensor {
        let kind = if self.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let rotations = Rotations::new(&self.config.rope, &self.frequencies_c, positions_n, kind);
        let half = self.config.head_dim / 2;
        let (cosines, sines) = (rotations.cosines_n1c.narrow(2, half, half), rotations.sines_n1c.narrow(2, half, half));
        Tensor::complex(&cosines.contiguous(), &sines.contiguous())
    }

    fn layer(
        &self,
        layer: &FusedLayer,
        cache: &Tensor,
        x_nd: Tensor,
        rotation_n1c: &Tensor,
        slots_k: &Tensor,
        attention: &Attention,
    ) -> Tensor {
        let (eps, rows) = (self.config.rms_norm_eps, x_nd.size()[0]);
        let (heads, kv_heads, channels) = (self.config.heads, self.config.kv_heads, self.config.head_dim);
        let qkv_no = project(&normalise(&x_nd, eps), &layer.qkv_io, layer.qkv_bias_o.as_ref());
        let qkv_nhc = qkv_no.view([rows, heads + 2 * kv_heads, channels]);
        let qk_nhc = qkv_nhc.narrow(1, 0, heads + kv_heads);
        self.rotate(&qk_nhc, layer.qk_norm.as_ref(), rotation_n1c);
        let kv_kgc = qkv_nhc.narrow(1, heads, 2 * kv_heads).narrow(0, 0, slots_k.size()[0]);
        // A shallow clone writes into the same memory: the cache is changed in place.
        let _ = cache.shallow_clone().index_copy_(1, slots_k, &kv_kgc.transpose(0, 1));
        let q_nrgc = qkv_nhc.narrow(1, 0, heads).view([rows, heads / kv_heads, kv_heads, channels]);
        let attended_no = attend(&q_nrgc, cache, attention).view([rows, heads * channels]);
        let x_nd = add_projection(x_nd, &attended_no, &layer.output_io, layer.output_bias_o.as_ref());
        let gate_up_no = layer.gate_up_io.product(&normalise(&x_nd, eps));
        let inner = self.config.intermediate_size;
        let gated_ni = gate_up_no.narrow(1, 0, inner).silu() * gate_up_no.narrow(1, inner, inner);
        add_projection(x_nd, &gated_ni, &layer.down_io, None)
    }

    /// Norms (Qwen3) and rotates queries and keys in place.
    fn rotate(&self, qk_nhc: &Tensor, norm: Option<&Tensor>, rotation_n1c: &Tensor) {
        let mut qk_nhc = qk_nhc.shallow_clone();
        if let Some(norm) = norm {
            let normed = normalise(&qk_nhc, self.config.rms_norm_eps) * norm.view([1, -1, self.config.head_dim]);
            qk_nhc.copy_(&normed);
        }
        let pairs = |x: &Tensor| x.unflatten(2, [self.config.head_dim / 2, 2]).view_as_complex();
        match qk_nhc.kind() {
            Kind::Float | Kind::Double => {
                let _ = pairs(&qk_nhc).g_mul_(rotation_n1c);
            }
            _ => {
                let rotated = pairs(&qk_nhc.to_kind(Kind::Float).contiguous()) * rotation_n1c;
                qk_nhc.copy_(&rotated.view_as_real().flatten(2, 3));
            }
        }
    }
}

impl FusedLayer {
    fn new(config: &ModelConfig, layer: Layer) -> FusedLayer {
        let (groups, channels) = (config.kv_heads, config.head_dim);
        let repeats = config.heads / groups;
        let width = config.hidden_size;
        // The head `g R + r` of a checkpoint reads key head `g`; here it is `r G + g`. `rest` is what lies behind the heads.
        let queries = |x: &Tensor| {
            let rest = x.numel() as i64 / (config.heads * channels);
            x.view([groups, repeats, 2, channels / 2, rest]).permute([1, 0, 3, 2, 4]).reshape([-1, rest])
        };
        let keys = |x: &Tensor| {
            let rest = x.numel() as i64 / (groups * channels);
            x.view([groups, 2, channels / 2, rest]).transpose(1, 2).reshape([-1, rest])
        };
        let norm_in = |linear: &Linear, norm_d: &Tensor| merged(linear) * norm_d;
        let qkv_oi = Tensor::cat(
            &[
                queries(&norm_in(&layer.query, &layer.attention_norm_d)),
                keys(&norm_in(&layer.key, &layer.attention_norm_d)),
                norm_in(&layer.value, &layer.attention_norm_d),
            ],
            0,
        );
        let qkv_bias_o = match (&layer.query.bias_o, &layer.key.bias_o, &layer.value.bias_o) {
            (Some(query_o), Some(key_o), Some(value_o)) => {
                Some(Tensor::cat(&[queries(query_o).flatten(0, 1), keys(key_o).flatten(0, 1), value_o.shallow_clone()], 0))
            }
            _ => None,
        };
        let interleave = |norm_c: &Tensor| norm_c.view([2, channels / 2]).tr().reshape([1, 1, channels]);
        let qk_norm = match (&layer.query_norm_c, &layer.key_norm_c) {
            (Some(query_c), Some(key_c)) => {
                let query = interleave(query_c).expand([repeats, groups, channels], false);
                Some(Tensor::cat(&[query, interleave(key_c).expand([1, groups, channels], false)], 0))
            }
            _ => None,
        };
        let output_oi = merged(&layer.output).view([width, groups, repeats, channels]).transpose(1, 2).reshape([width, -1]);
        let gate_up_oi = Tensor::cat(&[norm_in(&layer.gate, &layer.mlp_norm_d), norm_in(&layer.up, &layer.mlp_norm_d)], 0);
        FusedLayer {
            qkv_io: Matrix::new(&qkv_oi.tr()),
            qkv_bias_o,
            qk_norm,
            output_io: Matrix::new(&output_oi.tr()),
            output_bias_o: layer.output.bias_o.as_ref().map(Tensor::shallow_clone),
            gate_up_io: Matrix::new(&gate_up_oi.tr()),
            down_io: Matrix::new(&merged(&layer.down).tr()),
        }
    }
}

/// The projection's matrix with its adapter added: `[O, I]`.
fn merged(linear: &Linear) -> Tensor {
    match &linear.lora {
        None => linear.weight_oi.shallow_clone(),
        Some(lora) => &linear.weight_oi + lora.b_or.matmul(&lora.a_ri) * lora.scale,
    }
}

/// `x W^T + b`.
fn project(x_ni: &Tensor, weight_io: &Matrix, bias_o: Option<&Tensor>) -> Tensor {
    match bias_o {
        Some(bias_o) => weight_io.add_product(bias_o.repeat([x_ni.size()[0], 1]), x_ni),
        None => weight_io.product(x_ni),
    }
}

/// `x + y W^T + b`, in one product.
fn add_projection(x_nd: Tensor, y_ni: &Tensor, weight_id: &Matrix, bias_d: Option<&Tensor>) -> Tensor {
    let mut sum_nd = weight_id.add_product(x_nd, y_ni);
    if let Some(bias_d) = bias_d {
        let _ = sum_nd.g_add_(bias_d);
    }
    sum_nd
}

/// RMSNorm without its scale, in f32 or wider.
fn normalise(x: &Tensor, eps: f64) -> Tensor {
    let kind = x.kind();
    let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
    let x = x.to_kind(wide);
    let scale = (x.square().mean_dim(-1, true, wide) + eps).rsqrt();
    (x * scale).to_kind(kind)
}
