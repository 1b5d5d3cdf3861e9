//! The forest: the rows of a step as tries, computed once for each distinct (prefix, token), forward and backward.
//!
//! Rows share prefixes: the samples of a group share the prompt, the turns of a rollout share the history. A node of the trie stands for all rows that
//! go through it. What it computes is what each of them would compute apart (position is depth, attention is to ancestors), and its gradient is
//! the sum of theirs. The model runs once over the nodes, so that a step costs what its distinct tokens cost.
//!
//! `trie` lays the nodes out, `pack` deals rows into micro-batches, `attention`, `layers` and `head` are the arithmetic.
//!
//! Not here: dropout (the models have none), and rotary embeddings that change with the length of a row (the models refuse them).
//!
//! Source: Tree Training (arXiv 2511.00413), section 3, for the idea.

mod attention;
mod head;
mod layers;
mod pack;
mod trie;

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor};

use crate::model::Model;
use layers::{Keep, Nodes};
pub use pack::MicroBatch;
use trie::Trie;

/// One row: an LLM call whose response is to be scored.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// At least one token.
    pub prompt: &'a [u32],
    pub response: &'a [u32],
    /// Divides the logits; above 0.
    pub temperature: f64,
}

/// How to compute.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    pub checkpointing: Checkpointing,
    /// Bytes that kept activations and logits may take, for `Checkpointing::Auto`.
    pub activation_bytes: u64,
    /// Nodes whose logits are held at once.
    pub logits_at_once: usize,
    pub value_head: Option<&'a ValueHead>,
}

/// Estimates what is still to be earned from the hidden state, after the last norm, of a prompt's last token.
#[derive(Debug)]
pub struct ValueHead {
    /// `[1, D]`.
    pub weight_1d: Tensor,
    /// `[1]`.
    pub bias_1: Tensor,
}

/// Whether each layer's activations are computed again for the backward pass, which saves most of the memory and costs a third more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    Never,
    Always,
    /// In as many of the first layers as needed for the others' to fit into `Options::activation_bytes`, and then the logits.
    Auto,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { checkpointing: Checkpointing::Auto, activation_bytes: 2 << 30, logits_at_once: 256, value_head: None }
    }
}

/// What a policy thinks of the response tokens: `[rows][tokens]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Log-probability under the softmax of logits over temperature, natural logarithm.
    pub logp: Vec<Vec<f64>>,
    /// Entropy of that softmax, in nats.
    pub entropy: Vec<Vec<f64>>,
    /// `[rows]`, by the value head; empty without one.
    pub value: Vec<f64>,
}

/// Gradients of a loss by `Scores`: `[rows][tokens]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    pub logp: Vec<Vec<f64>>,
    /// `None` is zero.
    pub entropy: Option<Vec<Vec<f64>>>,
    /// `[rows]`; `None` is zero.
    pub value: Option<Vec<f64>>,
}

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Tokens of all rows, as separate rows would go through the model.
    pub row_tokens: usize,
    /// Distinct ones.
    pub trie_tokens: usize,
    /// Whether any layer was computed again.
    pub checkpointed: bool,
}

/// Scores every response token. No gradient.
///
/// Errors: a row without a prompt, a temperature that is not positive, an id outside of the vocabulary.
pub fn score(model: &Model, sequences: &[Sequence], options: &Options) -> Result<Scores> {
    let _guard = tch::no_grad_guard();
    let (trie, reads) = plant(model, sequences, options)?;
    if trie.is_empty() {
        return Ok(nothing(sequences));
    }
    let wanted = Wanted::new(&reads, &last_of_prompts(sequences, &trie, options));
    let (x_wd, _) = Nodes::new(model, &trie, &wanted.nodes).forward(|_| Keep::Nothing);
    let normed_pd = model.final_norm(&x_wd.index_select(0, &wanted.places(model.device())));
    let (logp, entropy) = reads.by_row(&head::forward(model, &reads, &normed_pd, options.logits_at_once, false));
    let value = options.value_head.map(|head| head.values(model, &x_wd.index_select(0, &wanted.prompts(model.device()))));
    Ok(Scores { logp, entropy, value: value.as_ref().map(head::numbers).unwrap_or_default() })
}

/// Scores every response token, asks `loss` for the gradient by each score, and adds the gradient by each parameter that requires one to its `grad`.
///
/// Gradients of several calls add up, so that micro-batches give what one batch of all rows gives, as long as `loss` divides by the counts of the
/// whole batch.
///
/// Errors: those of `score`, and gradients that are not shaped as the scores.
pub fn accumulate(
    model: &Model,
    sequences: &[Sequence],
    options: &Options,
    loss: &mut dyn FnMut(&Scores) -> Gradients,
) -> Result<Work> {
    let (trie, reads) = plant(model, sequences, options)?;
    let row_tokens = sequences.iter().map(|sequence| row_of(sequence, options).len()).sum();
    let mut work = Work { row_tokens, trie_tokens: trie.len(), checkpointed: false };
    if trie.is_empty() {
        loss(&nothing(sequences));
        return Ok(work);
    }
    let kept = Kept::new(model, trie.len(), reads.nodes().count(), options);
    work.checkpointed = kept.from_layer > 0;
    let wanted = Wanted::new(&reads, &last_of_prompts(sequences, &trie, options));
    let nodes = Nodes::new(model, &trie, &wanted.nodes);
    let (x_wd, trace) = nodes.forward(|index| if index < kept.from_layer { Keep::Inputs } else { Keep::Graphs });

    let (place_p, prompt_b) = (wanted.places(model.device()), wanted.prompts(model.device()));
    let x_pd = layers::leaf(&x_wd.index_select(0, &place_p));
    let normed_pd = model.final_norm(&x_pd);
    let read = head::forward(model, &reads, &normed_pd.detach(), options.logits_at_once, kept.logits);
    let x_bd = layers::leaf(&x_wd.index_select(0, &prompt_b));
    let value_b = options.value_head.map(|head| head.values(model, &x_bd));

    let (logp, entropy) = reads.by_row(&read);
    let gradients = loss(&Scores { logp, entropy, value: value_b.as_ref().map(head::numbers).unwrap_or_default() });
    check_shapes(&gradients, sequences, options)?;
    let logp_r = reads.sum_by_read(&gradients.logp);
    let entropy_r = gradients.entropy.map(|rows| reads.sum_by_read(&rows));
    let grad_pd = head::backward(model, &reads, &normed_pd.detach(), read, options.logits_at_once, &logp_r, entropy_r.as_deref());
    layers::dot(&normed_pd, &grad_pd).backward();
    let mut grad_wd = x_wd.zeros_like().index_add_(0, &place_p, &x_pd.grad());
    if let (Some(value_b), Some(slope_b)) = (value_b, gradients.value) {
        layers::dot(&value_b, &Tensor::from_slice(&slope_b).to_kind(value_b.kind()).to_device(value_b.device())).backward();
        grad_wd = grad_wd.index_add_(0, &prompt_b, &x_bd.grad());
    }
    nodes.backward(trace, grad_wd);
    Ok(work)
}

impl ValueHead {
    /// `[B, D]` before the last norm -> `[B]`.
    fn values(&self, model: &Model, x_bd: &Tensor) -> Tensor {
        model.final_norm(x_bd).to_kind(self.weight_1d.kind()).linear(&self.weight_1d, Some(&self.bias_1)).squeeze_dim(-1)
    }
}

/// Deals sequences into micro-batches of at most `budget_tokens` distinct tokens each; see `pack::pack`.
pub fn pack(sequences: &[Sequence], budget_tokens: usize) -> Vec<MicroBatch> {
    let rows: Vec<Vec<u32>> = sequences.iter().map(|sequence| row_of(sequence, &Options::default())).collect();
    pack::pack(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), budget_tokens)
}

/// What is kept from the forward pass; the rest is computed again.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// The first layer whose activations are kept: it and those after it are the first that the backward pass needs, and gives back.
    from_layer: usize,
    logits: bool,
}

impl Kept {
    fn new(model: &Model, nodes: usize, places: usize, options: &Options) -> Kept {
        let (layers, config) = (model.layers.len(), &model.config);
        let budget = match options.checkpointing {
            Checkpointing::Never => return Kept { from_layer: 0, logits: true },
            Checkpointing::Always => return Kept { from_layer: layers, logits: false },
            Checkpointing::Auto => options.activation_bytes,
        };
        // Each projection's input and output, the norms, and the rotated queries and keys.
        let heads = 5 * config.heads * config.head_dim + 5 * config.kv_heads * config.head_dim;
        let numbers = (7 * config.hidden_size + heads + 4 * config.intermediate_size) as u64;
        let layer_bytes = numbers * nodes as u64 * model.kind().elt_size_in_bytes() as u64;
        let logits_bytes = places as u64 * config.vocab_size as u64 * attention::wide(model.kind()).elt_size_in_bytes() as u64;
        let kept = (budget / layer_bytes.max(1)).min(layers as u64);
        Kept { from_layer: layers - kept as usize, logits: budget - kept * layer_bytes >= logits_bytes }
    }
}

/// The nodes that anything is read from.
struct Wanted {
    /// Ascending, each once.
    nodes: Vec<i64>,
    /// `[P]`: where in `nodes` each place of the head is.
    places: Vec<i64>,
    /// `[B]`: where in `nodes` each prompt's last token is; empty without a value head.
    prompts: Vec<i64>,
}

impl Wanted {
    fn new(reads: &head::Reads, prompts: &[usize]) -> Wanted {
        let mut nodes: Vec<i64> = reads.nodes().chain(prompts.iter().copied()).map(|node| node as i64).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let find = |node: usize| nodes.binary_search(&(node as i64)).expect("it is among the wanted") as i64;
        Wanted { places: reads.nodes().map(find).collect(), prompts: prompts.iter().copied().map(find).collect(), nodes }
    }

    fn places(&self, device: Device) -> Tensor {
        Tensor::from_slice(&self.places).to_device(device)
    }

    fn prompts(&self, device: Device) -> Tensor {
        Tensor::from_slice(&self.prompts).to_device(device)
    }
}

fn plant(model: &Model, sequences: &[Sequence], options: &Options) -> Result<(Trie, head::Reads)> {
    for (row, sequence) in sequences.iter().enumerate() {
        check(sequence, model.config.vocab_size).with_context(|| format!("row {row} of the micro-batch"))?;
    }
    let rows: Vec<Vec<u32>> = sequences.iter().map(|sequence| row_of(sequence, options)).collect();
    let trie = Trie::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let reads = head::Reads::new(sequences, &trie);
    Ok((trie, reads))
}

/// The tokens of a sequence that go through the model: nothing is read after the last one, and from an empty response only the value.
fn row_of(sequence: &Sequence, options: &Options) -> Vec<u32> {
    match sequence.response.split_last() {
        Some((_, response)) => [sequence.prompt, response].concat(),
        None if options.value_head.is_some() => sequence.prompt.to_vec(),
        None => vec![],
    }
}

/// `[B]`: the node of each prompt's last token; empty without a value head.
fn last_of_prompts(sequences: &[Sequence], trie: &Trie, options: &Options) -> Vec<usize> {
    let rows = sequences.iter().enumerate().filter(|_| options.value_head.is_some());
    rows.map(|(row, sequence)| trie.node(row, sequence.prompt.len() - 1).expect("the prompt is in the trie")).collect()
}

fn check(sequence: &Sequence, vocab_size: i64) -> Result<()> {
    ensure!(!sequence.prompt.is_empty(), "a prompt without tokens: nothing predicts the first of the response");
    ensure!(
        sequence.temperature.is_finite() && sequence.temperature > 0.0,
        "temperature {} is not above 0",
        sequence.temperature
    );
    let outside = sequence.prompt.iter().chain(sequence.response).find(|&&id| i64::from(id) >= vocab_size);
    ensure!(outside.is_none(), "token id {} is outside of the vocabulary of {vocab_size}", outside.expect("just found"));
    Ok(())
}

fn check_shapes(gradients: &Gradients, sequences: &[Sequence], options: &Options) -> Result<()> {
    for (what, rows) in [("logp", Some(&gradients.logp)), ("entropy", gradients.entropy.as_ref())] {
        let same = |rows: &Vec<Vec<f64>>| rows.iter().map(Vec::len).eq(sequences.iter().map(|sequence| sequence.response.len()));
        ensure!(rows.is_none_or(same), "the gradient by `{what}` has another shape than the responses");
    }
    let values = gradients.value.as_ref().map(Vec::len);
    ensure!(values.is_none() || options.value_head.is_some(), "a gradient by `value` without a value head");
    ensure!(values.is_none_or(|values| values == sequences.len()), "the gradient by `value` has another length than the rows");
    Ok(())
}

fn nothing(sequences: &[Sequence]) -> Scores {
    let empty = vec![vec![]; sequences.len()];
    Scores { logp: empty.clone(), entropy: empty, value: vec![] }
}

#[cfg(test)]
mod tests;
