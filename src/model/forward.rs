//! The forward pass, layer by layer.

use tch::{Kind, Tensor};

use super::{Linear, Model, Rotations, attend};

impl Model {
    /// Embeddings of tokens: `[N]` -> `[N, D]`. Ids are below `vocab_size`.
    pub fn embed(&self, ids_n: &Tensor) -> Tensor {
        Tensor::embedding(&self.embedding_vd, ids_n, -1, false, false)
    }

    /// Cosines and sines of these positions, made once a forward: `[N]`, whole numbers.
    pub fn rotations(&self, positions_n: &Tensor) -> Rotations {
        Rotations::new(&self.config.rope, &self.frequencies_c, positions_n, self.kind())
    }

    /// One block: `[N, D]` -> `[N, D]`.
    ///
    /// * `attend`: `(q [N, H, C], k [N, G, C], v [N, G, C]) -> [N, H, C]`. The rotary embedding and the norms of queries and keys are applied
    ///   already, the scale `1 / sqrt(C)` is not. Whoever calls decides who sees whom and what is cached.
    pub fn layer(
        &self,
        index: usize,
        x_nd: &Tensor,
        rotations: &Rotations,
        attend: &mut dyn FnMut(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let [q_nhc, k_ngc, v_ngc] = self.before_attention(index, x_nd, rotations);
        self.after_attention(index, x_nd, &attend(&q_nhc, &k_ngc, &v_ngc))
    }

    /// The part of a block before attention: `[N, D]` -> queries `[N, H, C]`, keys and values `[N, G, C]`.
    pub fn before_attention(&self, index: usize, x_nd: &Tensor, rotations: &Rotations) -> [Tensor; 3] {
        let (layer, config) = (&self.layers[index], &self.config);
        let normed_nd = rms_norm(x_nd, &layer.attention_norm_d, config.rms_norm_eps);
        let heads = |x_no: Tensor, heads: i64| x_no.view([-1, heads, config.head_dim]);
        let mut q_nhc = heads(layer.query.apply(&normed_nd), config.heads);
        let mut k_ngc = heads(layer.key.apply(&normed_nd), config.kv_heads);
        let v_ngc = heads(layer.value.apply(&normed_nd), config.kv_heads);
        if let Some(norm_c) = &layer.query_norm_c {
            q_nhc = rms_norm(&q_nhc, norm_c, config.rms_norm_eps);
        }
        if let Some(norm_c) = &layer.key_norm_c {
            k_ngc = rms_norm(&k_ngc, norm_c, config.rms_norm_eps);
        }
        [rotations.apply(&q_nhc), rotations.apply(&k_ngc), v_ngc]
    }

    /// The part of a block after attention: its input `[N, D]` and what was attended to, `[N, H, C]`, -> `[N, D]`.
    pub fn after_attention(&self, index: usize, x_nd: &Tensor, attended_nhc: &Tensor) -> Tensor {
        let (x_nd, gated_nf) = self.before_down(index, x_nd, attended_nhc);
        x_nd + self.layers[index].down.apply(&gated_nf)
    }

    /// `after_attention` up to its last projection: what that is added to, `[N, D]`, and what goes into it, `[N, F]`.
    pub fn before_down(&self, index: usize, x_nd: &Tensor, attended_nhc: &Tensor) -> (Tensor, Tensor) {
        let (layer, config) = (&self.layers[index], &self.config);
        let x_nd = x_nd + layer.output.apply(&attended_nhc.reshape([-1, config.heads * config.head_dim]));
        let normed_nd = rms_norm(&x_nd, &layer.mlp_norm_d, config.rms_norm_eps);
        let gated_nf = layer.gate.apply(&normed_nd).silu() * layer.up.apply(&normed_nd);
        (x_nd, gated_nf)
    }

    /// The norm after the last layer: `[N, D]` -> `[N, D]`.
    pub fn final_norm(&self, x_nd: &Tensor) -> Tensor {
        rms_norm(x_nd, &self.norm_d, self.config.rms_norm_eps)
    }

    /// `[N, D]`, normed, -> `[N, V]`, f32 or wider.
    pub fn logits(&self, normed_nd: &Tensor) -> Tensor {
        let head_vd = self.head_vd.as_ref().unwrap_or(&self.embedding_vd);
        let logits_nv = normed_nd.linear(head_vd, None::<&Tensor>);
        let kind = wide(logits_nv.kind());
        logits_nv.to_kind(kind)
    }

    /// Logits of one sequence from its first token on, the plain way: `[N]` -> `[N, V]`.
    pub fn forward(&self, ids_n: &Tensor) -> Tensor {
        let positions_n = Tensor::arange(ids_n.size()[0], (Kind::Int64, self.device()));
        let rotations = self.rotations(&positions_n);
        let mut x_nd = self.embed(ids_n);
        for index in 0..self.layers.len() {
            x_nd = self.layer(index, &x_nd, &rotations, &mut attend::causal);
        }
        self.logits(&self.final_norm(&x_nd))
    }
}

impl Linear {
    /// `[N, I]` -> `[N, O]`.
    pub fn apply(&self, x_ni: &Tensor) -> Tensor {
        let y_no = x_ni.linear(&self.weight_oi, self.bias_o.as_ref());
        match &self.lora {
            None => y_no,
            Some(lora) => {
                let added_no = x_ni.linear(&lora.a_ri, None::<&Tensor>).linear(&lora.b_or, None::<&Tensor>);
                y_no + added_no * lora.scale
            }
        }
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis, in f32 or the kind of `x` if that is wider.
///
/// Source: Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4.
pub fn rms_norm(x_nd: &Tensor, weight_d: &Tensor, eps: f64) -> Tensor {
    let kind = x_nd.kind();
    let x_wide_nd = x_nd.to_kind(wide(kind));
    let scale_n1 = (x_wide_nd.square().mean_dim(-1, true, wide(kind)) + eps).rsqrt();
    (x_wide_nd * scale_n1).to_kind(kind) * weight_d
}

/// The kind to sum in: f32, or f64 where the tensor is.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
