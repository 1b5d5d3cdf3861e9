//! Log-probabilities and entropies of the tokens that rows read, by chunks of nodes over the vocabulary, and their gradient.
//!
//! With `z = logits / T` and `p = softmax(z)` at one node: `d logp[y] / d z = onehot(y) - p`, and for the entropy `H`,
//! `d H / d z = -p (log p + H)`. Written out here, the gradient takes the place of the logits, and that of the head's weight is added to where it is
//! kept, without a graph over the vocabulary.
//!
//! Axes: `p` place, `d` width, `v` vocabulary, `r` read.

use std::collections::HashMap;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::Sequence;
use super::attention::wide;
use super::trie::Trie;
use crate::model::Model;

/// What the rows of a micro-batch read, each distinct reading once.
#[derive(Debug, Default)]
pub struct Reads {
    /// Nodes with the temperature that divides their logits, in order of their nodes.
    places: Vec<(usize, f64)>,
    /// Place and token, in order of their places.
    reads: Vec<(usize, u32)>,
    /// `[rows][tokens]`: each response token's read.
    rows: Vec<Vec<usize>>,
}

/// What a forward pass over the head gives, and what its gradient needs.
#[derive(Debug)]
pub struct Read {
    pub logp_r: Vec<f64>,
    pub entropy_p: Vec<f64>,
    /// For each chunk of places, `[P, 1]`: the logarithm of the sum of the exponentials of `z`.
    lse_p1: Vec<Tensor>,
    /// For each chunk of places, `[P, V]`: `z`, if it was to be kept.
    z_pv: Vec<Tensor>,
}

impl Reads {
    /// * `rows`: for each sequence, its row of the trie.
    pub fn new(sequences: &[Sequence], trie: &Trie) -> Reads {
        // Temperatures are compared by their bits, which orders positive numbers as their values do.
        let mut wanted: Vec<Vec<(usize, u64, u32)>> = vec![];
        for (row, sequence) in sequences.iter().enumerate() {
            let temperature = sequence.temperature.to_bits();
            let node = |token: usize| {
                trie.node(row, sequence.prompt.len() + token - 1).expect("every response token but the last is a node")
            };
            wanted.push(sequence.response.iter().enumerate().map(|(token, &id)| (node(token), temperature, id)).collect());
        }
        let mut all: Vec<(usize, u64, u32)> = wanted.iter().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        let mut reads = Reads::default();
        let mut index = HashMap::with_capacity(all.len());
        for (read, &(node, temperature, id)) in all.iter().enumerate() {
            let place = (node, f64::from_bits(temperature));
            if reads.places.last() != Some(&place) {
                reads.places.push(place);
            }
            reads.reads.push((reads.places.len() - 1, id));
            index.insert((node, temperature, id), read);
        }
        reads.rows = wanted.iter().map(|row| row.iter().map(|key| index[key]).collect()).collect();
        reads
    }

    /// `[P]`: the node of each place, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = usize> {
        self.places.iter().map(|&(node, _)| node)
    }

    /// Log-probabilities and entropies as the rows have them: `[rows][tokens]` each.
    pub fn by_row(&self, read: &Read) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let logp = self.rows.iter().map(|row| row.iter().map(|&index| read.logp_r[index]).collect()).collect();
        let entropy =
            self.rows.iter().map(|row| row.iter().map(|&index| read.entropy_p[self.reads[index].0]).collect()).collect();
        (logp, entropy)
    }

    /// Sums what the rows say of each read: `[rows][tokens]` -> `[R]`.
    pub fn sum_by_read(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        let mut sums = vec![0.0; self.reads.len()];
        for (indices, values) in self.rows.iter().zip(rows) {
            indices.iter().zip(values).for_each(|(&index, value)| sums[index] += value);
        }
        sums
    }

    /// Sums over the reads of each place: `[R]` -> `[P]`.
    fn sum_by_place(&self, values_r: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.places.len()];
        self.reads.iter().zip(values_r).for_each(|(&(place, _), value)| sums[place] += value);
        sums
    }

    /// Chunks of at most so many places, each with its reads.
    fn chunks(&self, places_at_once: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let starts = (0..self.places.len()).step_by(places_at_once);
        starts
            .map(|start| {
                let end = (start + places_at_once).min(self.places.len());
                let read = |place: usize| self.reads.partition_point(|&(of, _)| of < place);
                (start..end, read(start)..read(end))
            })
            .collect()
    }

    /// `[P, 1]`: temperatures of some places.
    fn temperatures(&self, places: &Range<usize>, kind: Kind, device: Device) -> Tensor {
        let values: Vec<f64> = self.places[places.clone()].iter().map(|place| place.1).collect();
        Tensor::from_slice(&values).to_kind(kind).to_device(device).unsqueeze(-1)
    }

    /// `[R]` each: the place within its chunk, and the token, of some reads.
    fn indices(&self, places: &Range<usize>, reads: &Range<usize>, device: Device) -> (Tensor, Tensor) {
        let reads = &self.reads[reads.clone()];
        let places: Vec<i64> = reads.iter().map(|read| (read.0 - places.start) as i64).collect();
        let tokens: Vec<i64> = reads.iter().map(|read| read.1 as i64).collect();
        (Tensor::from_slice(&places).to_device(device), Tensor::from_slice(&tokens).to_device(device))
    }
}

/// Log-probabilities of all reads and entropies of all places. No gradient flows through.
///
/// * `normed_pd`: `[P, D]`, the places' hidden states after the last norm.
/// * `keep`: keep the logits of all places for the gradient, which makes them again otherwise.
pub fn forward(model: &Model, reads: &Reads, normed_pd: &Tensor, places_at_once: usize, keep: bool) -> Read {
    let _guard = tch::no_grad_guard();
    let mut read = Read { logp_r: vec![], entropy_p: vec![], lse_p1: vec![], z_pv: vec![] };
    for (places, of_places) in reads.chunks(places_at_once) {
        let z_pv = scaled_logits(model, reads, normed_pd, &places);
        let lse_p1 = z_pv.logsumexp(-1, true);
        let (place_r, token_r) = reads.indices(&places, &of_places, z_pv.device());
        let logp_r = z_pv.index(&[Some(&place_r), Some(&token_r)]) - lse_p1.squeeze_dim(-1).index_select(0, &place_r);
        let mut p_pv = &z_pv - &lse_p1;
        let mean_p = p_pv.exp_().g_mul_(&z_pv).sum_dim_intlist(-1i64, false, z_pv.kind());
        read.logp_r.extend(numbers(&logp_r));
        read.entropy_p.extend(numbers(&(lse_p1.squeeze_dim(-1) - mean_p)));
        read.lse_p1.push(lse_p1);
        read.z_pv.extend(keep.then_some(z_pv));
    }
    read
}

/// Gradient of `normed_pd`, `[P, D]`; that of the head's weight is added to its own.
///
/// * `logp_r`: `[R]`, the gradient of each read's log-probability.
/// * `entropy_r`: `[R]`, what each read adds to the gradient of its place's entropy.
pub fn backward(
    model: &Model,
    reads: &Reads,
    normed_pd: &Tensor,
    read: Read,
    places_at_once: usize,
    logp_r: &[f64],
    entropy_r: Option<&[f64]>,
) -> Tensor {
    let head_vd = model.head_vd.as_ref().unwrap_or(&model.embedding_vd);
    let mut head_grad_vd = head_vd.requires_grad().then(|| gradient_of(head_vd));
    let _guard = tch::no_grad_guard();
    let logp_p = reads.sum_by_place(logp_r);
    let entropy_p = entropy_r.map(|entropy_r| reads.sum_by_place(entropy_r));
    let mut kept = read.z_pv.into_iter();
    let mut grads = vec![];
    for ((places, of_places), lse_p1) in reads.chunks(places_at_once).into_iter().zip(&read.lse_p1) {
        let z_pv = kept.next().unwrap_or_else(|| scaled_logits(model, reads, normed_pd, &places));
        let (kind, device) = (z_pv.kind(), z_pv.device());
        let tensor = |values: &[f64]| Tensor::from_slice(values).to_kind(kind).to_device(device);
        let mut dz_pv = match &entropy_p {
            None => {
                let mut p_pv = z_pv;
                p_pv -= lse_p1;
                let _ = p_pv.exp_();
                p_pv *= tensor(&logp_p[places.clone()]).neg().unsqueeze(-1);
                p_pv
            }
            Some(entropy_p) => {
                let log_p_pv = z_pv - lse_p1;
                let p_pv = log_p_pv.exp();
                let entropy_p1 = (&p_pv * &log_p_pv).sum_dim_intlist(-1i64, true, kind).neg();
                let slope_p1 = tensor(&entropy_p[places.clone()]).unsqueeze(-1);
                p_pv * -((log_p_pv + entropy_p1) * slope_p1 + tensor(&logp_p[places.clone()]).unsqueeze(-1))
            }
        };
        let (place_r, token_r) = reads.indices(&places, &of_places, device);
        let _ = dz_pv.index_put_(&[Some(&place_r), Some(&token_r)], &tensor(&logp_r[of_places]), true);
        dz_pv /= reads.temperatures(&places, kind, device);
        let dz_pv = dz_pv.to_kind(head_vd.kind());
        let of_places_pd = normed_pd.narrow(0, places.start as i64, places.len() as i64);
        if let Some(grad_vd) = &mut head_grad_vd {
            let _ = grad_vd.addmm_(&dz_pv.transpose(0, 1), &of_places_pd);
        }
        grads.push(dz_pv.matmul(head_vd));
    }
    if grads.is_empty() { normed_pd.zeros_like() } else { Tensor::cat(&grads, 0) }
}

/// Logits over temperature of some places, f32 or wider.
fn scaled_logits(model: &Model, reads: &Reads, normed_pd: &Tensor, places: &Range<usize>) -> Tensor {
    let mut z_pv = model.logits(&normed_pd.narrow(0, places.start as i64, places.len() as i64));
    debug_assert_eq!(z_pv.kind(), wide(z_pv.kind()));
    if reads.places[places.clone()].iter().any(|place| place.1 != 1.0) {
        z_pv /= reads.temperatures(places, z_pv.kind(), z_pv.device());
    }
    z_pv
}

/// A parameter's gradient, zeros if it has none yet.
pub(super) fn gradient_of(parameter: &Tensor) -> Tensor {
    if !parameter.grad().defined() {
        // The only way to a gradient is a backward pass.
        tch::with_grad(|| (parameter.narrow(0, 0, 1) * 0.0).sum(parameter.kind()).backward());
    }
    parameter.grad()
}

pub(super) fn numbers(x: &Tensor) -> Vec<f64> {
    let x = x.to_kind(Kind::Double).to_device(Device::Cpu).contiguous();
    let mut values = vec![0.0; x.numel()];
    x.copy_data(&mut values, x.numel());
    values
}
