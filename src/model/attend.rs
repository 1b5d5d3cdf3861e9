//! The plain ways to attend: one sequence, each token seeing itself and those before it.

use tch::Tensor;

/// `(q [N, H, C], k [N, G, C], v [N, G, C]) -> [N, H, C]`, all tokens one sequence.
pub fn causal(q_nhc: &Tensor, k_ngc: &Tensor, v_ngc: &Tensor) -> Tensor {
    attention(q_nhc, k_ngc, v_ngc, None, true)
}

/// Attention of `N` queries over `M` keys: `[N, H, C]`, `[M, G, C]`, `[M, G, C]` -> `[N, H, C]`, scaled by `1 / sqrt(C)`.
///
/// * `mask_nm`: `[N, M]`, true where a query sees a key.
/// * `is_causal`: query `n` sees keys `0..=n`, whatever `M` is: right where queries and keys are the same tokens, and nowhere else.
pub fn attention(q_nhc: &Tensor, k_mgc: &Tensor, v_mgc: &Tensor, mask_nm: Option<&Tensor>, is_causal: bool) -> Tensor {
    let heads_first = |x_nhc: &Tensor| x_nhc.transpose(0, 1).unsqueeze(0);
    let grouped = q_nhc.size()[1] != k_mgc.size()[1];
    let (q, k, v) = (heads_first(q_nhc), heads_first(k_mgc), heads_first(v_mgc));
    Tensor::scaled_dot_product_attention(&q, &k, &v, mask_nm, 0.0, is_causal, None, grouped).squeeze_dim(0).transpose(0, 1)
}
