//! Attention over a trie, block by block, and its gradient.
//!
//! A node that several blocks attend for has its softmax put together from theirs by the logarithms of their sums: with `out_1, lse_1` over
//! one set of keys and `out_2, lse_2` over another, `lse = log(e^lse_1 + e^lse_2)` and `out = e^(lse_1 - lse) out_1 + e^(lse_2 - lse) out_2`. The
//! gradient of attention needs of each query only `out`, `lse` and the gradient of `out`, so that each block's share of it is that of the
//! block alone, given the final two. Nothing here is larger than a block's queries and keys, and no graph is kept.
//!
//! Source: Dao et al. 2022 (arXiv 2205.14135), sections 3.1 and B.4; Liu et al. 2023 (arXiv 2310.01889), section 3.
//!
//! Axes: `n` node, `m` key, `h` query head, `g` key head, `r` query heads of one key head, `c` channel of a head.

use tch::{Device, Kind, Tensor};

use super::trie::{Block, Seen, Trie};

/// Queries whose scores are held at once where no fused kernel is at hand.
const QUERIES_AT_ONCE: i64 = 512;

/// The blocks of a trie with their masks as tensors.
#[derive(Debug)]
pub struct Plan {
    blocks: Vec<(Block, Sight)>,
}

/// Which keys the queries of a block see.
#[derive(Debug)]
struct Sight {
    seen: Seen,
    /// For a masked block, what is added to the scores: 0 where a query sees a key, minus infinity elsewhere.
    mask_nm: Option<Tensor>,
}

/// What attention gives, and what its gradient needs.
#[derive(Debug)]
pub struct Attended {
    pub out_nhc: Tensor,
    /// Logarithm of the sum of the exponentials of each query's scores; f32 or wider.
    pub lse_rgn: Tensor,
}

impl Plan {
    pub fn new(trie: &Trie, device: Device, kind: Kind) -> Plan {
        let mask = |block: &Block| {
            let n = block.queries.len() as i64;
            let seen = Tensor::from_slice(&trie.mask(&block.queries)).view([n, n]).to_device(device);
            Tensor::zeros([n, n], (kind, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
        };
        let sight = |block: &Block| Sight { seen: block.seen, mask_nm: (block.seen == Seen::Masked).then(|| mask(block)) };
        let blocks = trie.blocks.iter().map(|block| (block.clone(), sight(block))).collect();
        Plan { blocks }
    }

    /// Every node attends to its ancestors and itself, with scores scaled by `1 / sqrt(C)`. No gradient flows through.
    ///
    /// * `q_nhc`, `k_ngc`, `v_ngc`: `[N, H, C]`, `[N, G, C]`, `[N, G, C]` for all nodes of the trie.
    pub fn forward(&self, q_nhc: &Tensor, k_ngc: &Tensor, v_ngc: &Tensor) -> Attended {
        let _guard = tch::no_grad_guard();
        let (n, heads, channels) = q_nhc.size3().expect("queries have three axes");
        let groups = k_ngc.size()[1];
        let (wide, device) = (wide(q_nhc.kind()), q_nhc.device());
        let out_nhc = Tensor::empty([n, heads, channels], (wide, device));
        let lse_rgn = Tensor::empty([heads / groups, groups, n], (wide, device));
        let (q_rgnc, out_rgnc) = (by_group(q_nhc, groups), by_group(&out_nhc, groups));
        let (k_rgnc, v_rgnc) = (for_queries(k_ngc, heads), for_queries(v_ngc, heads));
        for (block, sight) in &self.blocks {
            let ((start, queries), (first, keys)) = (extent(&block.queries), extent(&block.keys));
            let (k, v) = (k_rgnc.narrow(2, first, keys), v_rgnc.narrow(2, first, keys));
            let (out, lse) = attend(&q_rgnc.narrow(2, start, queries), &k, &v, sight);
            let (mut all_out, mut all_lse) = (out_rgnc.narrow(2, start, queries), lse_rgn.narrow(2, start, queries));
            if block.seen != Seen::Full {
                all_out.copy_(&out);
                all_lse.copy_(&lse);
                continue;
            }
            let both_lse = all_lse.logaddexp(&lse);
            let _ = all_out.g_mul_(&(&all_lse - &both_lse).exp_().unsqueeze(-1));
            let _ = all_out.addcmul_(&out.to_kind(wide), &(lse - &both_lse).exp_().unsqueeze(-1));
            all_lse.copy_(&both_lse);
        }
        Attended { out_nhc: out_nhc.to_kind(q_nhc.kind()), lse_rgn }
    }

    /// Gradients of `q_nhc`, `k_ngc` and `v_ngc`, given that of what `forward` returned for them.
    pub fn backward(
        &self,
        q_nhc: &Tensor,
        k_ngc: &Tensor,
        v_ngc: &Tensor,
        attended: &Attended,
        grad_nhc: &Tensor,
    ) -> [Tensor; 3] {
        let _guard = tch::no_grad_guard();
        let (heads, groups, kind) = (q_nhc.size()[1], k_ngc.size()[1], q_nhc.kind());
        let zeros = |like: &Tensor| like.zeros_like().to_kind(wide(kind));
        let (dq_nhc, dk_ngc, dv_ngc) = (zeros(q_nhc), zeros(k_ngc), zeros(v_ngc));
        let dq_rgnc = by_group(&dq_nhc, groups);
        let (q_rgnc, out_rgnc, grad_rgnc) =
            (by_group(q_nhc, groups), by_group(&attended.out_nhc, groups), by_group(grad_nhc, groups));
        let (k_rgnc, v_rgnc) = (for_queries(k_ngc, heads), for_queries(v_ngc, heads));
        for (block, sight) in &self.blocks {
            let ((start, queries), (first, keys)) = (extent(&block.queries), extent(&block.keys));
            let of_queries = |x_rgnc: &Tensor| x_rgnc.narrow(2, start, queries);
            let (q, out, lse, grad) =
                (of_queries(&q_rgnc), of_queries(&out_rgnc), of_queries(&attended.lse_rgn), of_queries(&grad_rgnc));
            let (k, v) = (k_rgnc.narrow(2, first, keys), v_rgnc.narrow(2, first, keys));
            let (dq, dk, dv) = attend_backward(&grad, &q, &k, &v, &out, &lse, sight);
            let _ = of_queries(&dq_rgnc).g_add_(&dq);
            for (all_ngc, part_rgnc) in [(&dk_ngc, dk), (&dv_ngc, dv)] {
                let summed_mgc = part_rgnc.sum_dim_intlist(0i64, false, wide(kind)).transpose(0, 1);
                let _ = all_ngc.narrow(0, first, keys).g_add_(&summed_mgc);
            }
        }
        [dq_nhc, dk_ngc, dv_ngc].map(|x| x.to_kind(kind))
    }
}

/// `[N, H, C]` -> `[R, G, N, C]`, a view of contiguous queries: query head `g * R + r` reads key head `g`.
fn by_group(x_nhc: &Tensor, groups: i64) -> Tensor {
    let (n, heads, channels) = x_nhc.size3().expect("queries have three axes");
    x_nhc.reshape([n, groups, heads / groups, channels]).permute([2, 1, 0, 3])
}

/// `[N, G, C]` -> `[R, G, N, C]`, the same keys for each query head of a group, without a copy.
fn for_queries(x_ngc: &Tensor, heads: i64) -> Tensor {
    x_ngc.transpose(0, 1).unsqueeze(0).expand([heads / x_ngc.size()[1], -1, -1, -1], false)
}

fn extent(range: &std::ops::Range<usize>) -> (i64, i64) {
    (range.start as i64, range.len() as i64)
}

/// Attention of one block: `[R, G, N, C]`, `[R, G, M, C]` twice -> `[R, G, N, C]` and `[R, G, N]`.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, sight: &Sight) -> (Tensor, Tensor) {
    if q.device() == Device::Cpu {
        return Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
            q,
            k,
            v,
            0.0,
            sight.seen == Seen::Causal,
            sight.mask_nm.as_ref(),
            None,
        );
    }
    attend_plainly(q, k, v, sight)
}

/// Gradients of a block's queries, keys and values: `[R, G, N, C]`, `[R, G, M, C]` twice.
fn attend_backward(
    grad: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    sight: &Sight,
) -> (Tensor, Tensor, Tensor) {
    if q.device() == Device::Cpu {
        let (causal, mask_nm) = (sight.seen == Seen::Causal, sight.mask_nm.as_ref());
        return Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, mask_nm, None,
        );
    }
    attend_plainly_backward(grad, q, k, v, out, lse, sight)
}

/// `attend` by plain matrix products, for devices whose fused kernels give no sums, some queries at a time.
fn attend_plainly(q: &Tensor, k: &Tensor, v: &Tensor, sight: &Sight) -> (Tensor, Tensor) {
    let (mut outs, mut sums) = (vec![], vec![]);
    for start in (0..q.size()[2]).step_by(QUERIES_AT_ONCE as usize) {
        let rows = QUERIES_AT_ONCE.min(q.size()[2] - start);
        let scores = scores(&q.narrow(2, start, rows), k, sight, start);
        let lse = scores.logsumexp(-1, false);
        outs.push((scores - lse.unsqueeze(-1)).exp_().to_kind(v.kind()).matmul(&v.narrow(
            2,
            0,
            visible(k, sight.seen, start + rows),
        )));
        sums.push(lse);
    }
    (Tensor::cat(&outs, 2), Tensor::cat(&sums, 2))
}

fn attend_plainly_backward(
    grad: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    sight: &Sight,
) -> (Tensor, Tensor, Tensor) {
    let scale = 1.0 / (q.size()[3] as f64).sqrt();
    let (dk, dv) = (k.zeros_like(), v.zeros_like());
    let mut dqs = vec![];
    for start in (0..q.size()[2]).step_by(QUERIES_AT_ONCE as usize) {
        let rows = QUERIES_AT_ONCE.min(q.size()[2] - start);
        let keys = visible(k, sight.seen, start + rows);
        let of = |x: &Tensor| x.narrow(2, start, rows);
        let (q, grad) = (of(q), of(grad));
        let p = (scores(&q, k, sight, start) - of(lse).unsqueeze(-1)).exp_();
        let delta = (&grad * of(out)).sum_dim_intlist(-1i64, true, p.kind());
        let _ = dv.narrow(2, 0, keys).g_add_(&p.to_kind(grad.kind()).transpose(2, 3).matmul(&grad));
        let dp = grad.matmul(&v.narrow(2, 0, keys).transpose(2, 3)).to_kind(p.kind());
        let ds = (p * (dp - delta) * scale).to_kind(q.kind());
        let _ = dk.narrow(2, 0, keys).g_add_(&ds.transpose(2, 3).matmul(&q));
        dqs.push(ds.matmul(&k.narrow(2, 0, keys)));
    }
    (Tensor::cat(&dqs, 2), dk, dv)
}

/// Scaled scores of queries that start at `start` of their block against the keys that any of them sees, f32 or wider.
fn scores(q: &Tensor, k: &Tensor, sight: &Sight, start: i64) -> Tensor {
    let rows = q.size()[2];
    let keys = visible(k, sight.seen, start + rows);
    let scores = q.matmul(&k.narrow(2, 0, keys).transpose(2, 3)).to_kind(wide(q.kind())) / (q.size()[3] as f64).sqrt();
    match (sight.seen, &sight.mask_nm) {
        (Seen::Causal, _) => {
            let later = Tensor::ones([rows, keys], (Kind::Bool, q.device())).triu(start + 1);
            scores.masked_fill(&later, f64::NEG_INFINITY)
        }
        (_, Some(mask_nm)) => scores + mask_nm.narrow(0, start, rows),
        (_, None) => scores,
    }
}

/// How many keys of a block the queries before `end` see at most.
fn visible(k: &Tensor, seen: Seen, end: i64) -> i64 {
    if seen == Seen::Causal { end } else { k.size()[2] }
}

/// The kind to sum in: f32, or f64 where the tensor is.
pub(super) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(size: &[i64]) -> Tensor {
        Tensor::randn(size, (Kind::Double, Device::Cpu))
    }

    fn assert_close(what: &str, one: &Tensor, other: &Tensor) {
        let distance = (one - other).abs().max().double_value(&[]);
        assert!(distance < 1e-12, "{what}: {distance:e}");
    }

    /// A branching trie whose blocks are of every kind: long samples on a long prompt, tiny ones, and a root apart.
    fn trie() -> Trie {
        let prompt: Vec<u32> = (0..150).collect();
        let sample =
            |n: u32, length: u32| prompt.iter().copied().chain((0..length).map(|token| 1000 * n + token)).collect::<Vec<u32>>();
        let mut rows = vec![
            sample(1, 90),
            sample(2, 80),
            sample(3, 5),
            sample(4, 3),
            (7000..7020).collect(),
            (7000..7010).chain([9]).collect(),
        ];
        rows.push(rows[1][..190].iter().copied().chain([8, 8, 8]).collect());
        Trie::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn blocks_give_what_a_mask_over_everything_gives() {
        let trie = trie();
        for seen in [Seen::Causal, Seen::Masked, Seen::Full] {
            assert!(trie.blocks.iter().any(|block| block.seen == seen), "no block is {seen:?}");
        }
        tch::manual_seed(1);
        let n = trie.len() as i64;
        let [q, k, v] = [6, 2, 2].map(|heads| random(&[n, heads, 8]).set_requires_grad(true));
        let grad_nhc = random(&[n, 6, 8]);
        let seen = Tensor::from_slice(&trie.mask(&(0..trie.len()))).view([n, n]);
        let first = |x: &Tensor| x.transpose(0, 1).unsqueeze(0);
        let expected =
            Tensor::scaled_dot_product_attention(&first(&q), &first(&k), &first(&v), Some(&seen), 0.0, false, None, true);
        let expected = expected.squeeze_dim(0).transpose(0, 1);
        (&expected * &grad_nhc).sum(Kind::Double).backward();

        let plan = Plan::new(&trie, Device::Cpu, Kind::Double);
        let attended = plan.forward(&q, &k, &v);
        assert_close("out", &attended.out_nhc, &expected);
        let gradients = plan.backward(&q, &k, &v, &attended, &grad_nhc);
        for (what, (gradient, input)) in ["dq", "dk", "dv"].iter().zip(gradients.iter().zip([&q, &k, &v])) {
            assert_close(what, gradient, &input.grad());
        }
    }

    #[test]
    fn plain_products_give_what_the_fused_kernel_gives() {
        let _guard = tch::no_grad_guard();
        tch::manual_seed(2);
        let mask_nm = Tensor::zeros([700, 700], (Kind::Double, Device::Cpu));
        let hidden = Tensor::rand([700, 700], (Kind::Double, Device::Cpu)).gt(0.5).triu(1);
        let mask_nm = mask_nm.masked_fill(&hidden, f64::NEG_INFINITY);
        for (seen, keys, mask_nm) in [(Seen::Causal, 700, None), (Seen::Masked, 700, Some(mask_nm)), (Seen::Full, 300, None)] {
            let sight = &Sight { seen, mask_nm };
            let (q, grad) = (random(&[3, 2, 700, 8]), random(&[3, 2, 700, 8]));
            let (k, v) = (random(&[3, 2, keys, 8]), random(&[3, 2, keys, 8]));
            let (out, lse) = attend(&q, &k, &v, sight);
            let (plain_out, plain_lse) = attend_plainly(&q, &k, &v, sight);
            assert_close("out", &out, &plain_out);
            assert_close("lse", &lse, &plain_lse);
            let (dq, dk, dv) = attend_backward(&grad, &q, &k, &v, &out, &lse, sight);
            let (plain_dq, plain_dk, plain_dv) = attend_plainly_backward(&grad, &q, &k, &v, &out, &lse, sight);
            for (what, one, other) in [("dq", &dq, &plain_dq), ("dk", &dk, &plain_dk), ("dv", &dv, &plain_dv)] {
                assert_close(what, one, other);
            }
        }
    }
}
