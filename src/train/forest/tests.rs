//! The forest against separate rows, padded on the right, with PyTorch's own autograd over all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::trie::tests::grown;
use super::*;
use crate::model::{Model, ModelConfig};

/// A row of our own, for `Sequence` only borrows.
struct Row {
    prompt: Vec<u32>,
    response: Vec<u32>,
    temperature: f64,
}

fn sequences(rows: &[Row]) -> Vec<Sequence<'_>> {
    rows.iter().map(|row| Sequence { prompt: &row.prompt, response: &row.response, temperature: row.temperature }).collect()
}

const VOCAB: i64 = 23;

/// A model with a value head.
struct Policy {
    model: Model,
    head: ValueHead,
}

/// A tiny model with every weight far from 0 and 1, so that each of them tells in every gradient.
fn tiny(model_type: &str, tied: bool) -> Policy {
    with_vocabulary(model_type, tied, VOCAB)
}

fn with_vocabulary(model_type: &str, tied: bool, vocab_size: i64) -> Policy {
    let config = ModelConfig::from_json(json!({
        "model_type": model_type, "vocab_size": vocab_size, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": tied, "max_position_embeddings": 4096, "hidden_act": "silu",
    }));
    let model = Model::random(config.expect("a configuration"), 7, Device::Cpu, Kind::Double).expect("a model");
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Double, Device::Cpu));
    let policy = Policy { model, head: ValueHead { weight_1d: zeros(&[1, 16]), bias_1: zeros(&[1]) } };
    tch::manual_seed(11);
    for (_, mut parameter) in policy.parameters() {
        tch::no_grad(|| {
            let noise = parameter.randn_like() * 0.4;
            let _ = parameter.g_add_(&noise);
        });
        let _ = parameter.requires_grad_(true);
    }
    policy
}

impl Policy {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut all = self.model.parameters();
        all.push(("value.weight".to_owned(), self.head.weight_1d.shallow_clone()));
        all.push(("value.bias".to_owned(), self.head.bias_1.shallow_clone()));
        all
    }
}

/// Takes every gradient, and leaves none behind.
fn take_gradients(policy: &Policy) -> BTreeMap<String, Tensor> {
    let take = |(name, parameter): (String, Tensor)| {
        let mut grad = parameter.grad();
        let taken = if grad.defined() { grad.copy() } else { parameter.zeros_like() };
        if grad.defined() {
            let _ = grad.zero_();
        }
        (name, taken.detach())
    };
    policy.parameters().into_iter().map(take).collect()
}

fn assert_same_gradients(what: &str, ours: &BTreeMap<String, Tensor>, theirs: &BTreeMap<String, Tensor>, limit: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (name, one) in ours {
        let scale = theirs[name].abs().max().double_value(&[]).max(1.0);
        let off = (one - &theirs[name]).abs().max().double_value(&[]) / scale;
        assert!(off <= limit, "{what}: the gradient of `{name}` is off by {off:e}");
    }
}

/// A loss that is not linear in any score, and differs from token to token: `a e^(logp - b) + c H^2` over tokens and `a V^2` over rows, summed.
fn weights(row: usize, token: usize) -> (f64, f64, f64) {
    let phase = (3 * row + 7 * token) as f64;
    (phase.sin() + 0.3, -2.0 + phase.cos(), 0.1 * (phase * 0.7).sin())
}

fn each(scores: &[Vec<f64>], f: impl Fn(usize, usize, f64) -> f64) -> Vec<Vec<f64>> {
    scores
        .iter()
        .enumerate()
        .map(|(row, tokens)| tokens.iter().enumerate().map(|(token, &score)| f(row, token, score)).collect())
        .collect()
}

/// The loss over some rows of a batch, and its gradients.
fn loss(rows: &[usize], scores: &Scores) -> (f64, Gradients) {
    let sum = |values: Vec<Vec<f64>>| values.iter().flatten().sum::<f64>();
    let a = |row: usize, token: usize| weights(rows[row], token);
    let value = sum(each(&scores.logp, |row, token, logp| a(row, token).0 * (logp - a(row, token).1).exp()))
        + sum(each(&scores.entropy, |row, token, entropy| a(row, token).2 * entropy * entropy))
        + scores.value.iter().enumerate().map(|(row, value)| a(row, 0).0 * value * value).sum::<f64>();
    let logp = each(&scores.logp, |row, token, logp| a(row, token).0 * (logp - a(row, token).1).exp());
    let entropy = each(&scores.entropy, |row, token, entropy| 2.0 * a(row, token).2 * entropy);
    let slope = scores.value.iter().enumerate().map(|(row, value)| 2.0 * a(row, 0).0 * value).collect();
    (value, Gradients { logp, entropy: Some(entropy), value: Some(slope) })
}

/// The same loss and gradients the plain way: each row apart, padded on the right, one graph from the embedding to the loss.
fn separate(policy: &Policy, rows: &[Row]) -> (f64, BTreeMap<String, Tensor>) {
    let model = &policy.model;
    let longest = rows.iter().map(|row| row.prompt.len() + row.response.len()).max().unwrap_or(0) as i64;
    let b = rows.len() as i64;
    let mut ids = vec![];
    for row in rows {
        let tokens = row.prompt.iter().chain(&row.response).map(|&id| id as i64).chain(std::iter::repeat(0));
        ids.extend(tokens.take(longest as usize));
    }
    let positions_n = Tensor::arange(longest, (Kind::Int64, Device::Cpu)).repeat([b]);
    let rotations = model.rotations(&positions_n);
    let mut x_nd = model.embed(&Tensor::from_slice(&ids));
    for index in 0..model.layers.len() {
        x_nd = model.layer(index, &x_nd, &rotations, &mut |q, k, v| {
            let split = |x: &Tensor| x.view([b, longest, x.size()[1], x.size()[2]]).transpose(1, 2);
            let out =
                Tensor::scaled_dot_product_attention(&split(q), &split(k), &split(v), None::<&Tensor>, 0.0, true, None, true);
            out.transpose(1, 2).reshape([b * longest, q.size()[1], q.size()[2]])
        });
    }
    let normed_nd = model.final_norm(&x_nd);
    let logits_btv = model.logits(&normed_nd).view([b, longest, -1]);
    let value_bt = normed_nd.linear(&policy.head.weight_1d, Some(&policy.head.bias_1)).view([b, longest]);
    let mut total = Tensor::zeros([1], (Kind::Double, Device::Cpu));
    for (index, row) in rows.iter().enumerate() {
        let (start, tokens) = (row.prompt.len() as i64 - 1, row.response.len() as i64);
        total += value_bt.get(index as i64).get(start).square() * weights(index, 0).0;
        if tokens == 0 {
            continue;
        }
        let logits_tv = logits_btv.get(index as i64).narrow(0, start, tokens) / row.temperature;
        let logp_tv = logits_tv.log_softmax(-1, Kind::Double);
        let chosen_t = Tensor::from_slice(&row.response.iter().map(|&id| id as i64).collect::<Vec<_>>());
        let logp_t = logp_tv.gather(1, &chosen_t.unsqueeze(-1), false).squeeze_dim(-1);
        let entropy_t = -(logp_tv.exp() * &logp_tv).sum_dim_intlist(-1i64, false, Kind::Double);
        let of = |part: fn((f64, f64, f64)) -> f64| {
            Tensor::from_slice(&(0..row.response.len()).map(|token| part(weights(index, token))).collect::<Vec<_>>())
        };
        let each_t = of(|(a, _, _)| a) * (logp_t - of(|(_, b, _)| b)).exp() + of(|(_, _, c)| c) * entropy_t.square();
        total += each_t.sum(Kind::Double);
    }
    if total.requires_grad() {
        total.backward();
    }
    (total.double_value(&[0]), take_gradients(policy))
}

/// The same loss and gradients by the forest, in micro-batches.
fn forest(policy: &Policy, rows: &[Row], budget: usize, options: &Options) -> (f64, BTreeMap<String, Tensor>) {
    let all = sequences(rows);
    let mut total = 0.0;
    for batch in pack(&all, budget) {
        let some: Vec<Sequence> = batch.rows.iter().map(|&row| all[row]).collect();
        let mut seen = None;
        accumulate(&policy.model, &some, options, &mut |scores| {
            let (value, gradients) = loss(&batch.rows, scores);
            total += value;
            seen = Some(scores.clone());
            gradients
        })
        .expect("rows that can be computed");
        assert_eq!(score(&policy.model, &some, options).ok(), seen);
    }
    (total, take_gradients(policy))
}

fn check(policy: &Policy, rows: &[Row]) {
    let (expected, expected_gradients) = separate(policy, rows);
    let options =
        |checkpointing| Options { checkpointing, activation_bytes: 200_000, logits_at_once: 7, value_head: Some(&policy.head) };
    let all = usize::MAX;
    let mut whole = None;
    for (what, budget, checkpointing) in [
        ("in one", all, Checkpointing::Never),
        ("in one, checkpointed", all, Checkpointing::Always),
        ("in one, checkpointed by memory", all, Checkpointing::Auto),
        ("in small micro-batches", 25, Checkpointing::Never),
        ("row by row, checkpointed", 1, Checkpointing::Always),
    ] {
        let (value, gradients) = forest(policy, rows, budget, &options(checkpointing));
        assert!((value - expected).abs() <= 1e-10 * expected.abs().max(1.0), "{what}: loss {value} is not {expected}");
        assert_same_gradients(what, &gradients, &expected_gradients, 1e-10);
        match &whole {
            None => whole = Some(gradients),
            Some(never) if budget == all => assert_same_gradients("checkpointing changes no bit", &gradients, never, 0.0),
            Some(_) => {}
        }
    }
}

/// Rows of a random forest, each cut into prompt and response at random.
fn cut(tokens: Vec<Vec<u32>>, cuts: &[usize]) -> Vec<Row> {
    let row = |(index, tokens): (usize, Vec<u32>)| {
        let (prompt, response) = tokens.split_at(1 + cuts[index % cuts.len()] % tokens.len());
        Row { prompt: prompt.to_vec(), response: response.to_vec(), temperature: [1.0, 0.7][index % 5 / 4] }
    };
    tokens.into_iter().filter(|tokens| !tokens.is_empty()).enumerate().map(row).collect()
}

fn random_rows() -> impl Strategy<Value = Vec<Row>> {
    let more = prop::collection::vec(0u32..VOCAB as u32, 0..24);
    let grow = prop::collection::vec((any::<usize>(), any::<usize>(), more), 1..9);
    (grow, prop::collection::vec(any::<usize>(), 9))
        .prop_map(|(grow, cuts)| cut(grown(&grow), &cuts))
        .prop_filter("no row", |rows| !rows.is_empty())
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} -> {:?} at {}", self.prompt, self.response, self.temperature)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn llama_on_random_forests(rows in random_rows()) {
        check(&tiny("llama", true), &rows);
    }

    #[test]
    fn qwen3_on_random_forests(rows in random_rows()) {
        check(&tiny("qwen3", false), &rows);
    }

    #[test]
    fn qwen2_on_random_forests(rows in random_rows()) {
        check(&tiny("qwen2", false), &rows);
    }
}

/// What an agent's rows look like: samples of several turns on one prompt, each turn's prompt being the last one with its response and what
/// came back. Some samples say the same for a while.
fn agent_rows() -> Vec<Row> {
    let token = |seed: usize| ((seed * 7919 + seed * seed * 31) % VOCAB as usize) as u32;
    let mut rows = vec![];
    for sample in 0..5 {
        let mut prompt: Vec<u32> = (0..40).map(token).collect();
        for turn in 0..3 {
            // Samples 0 and 1 say the same in the first turn; otherwise the first token already differs.
            let said = if turn == 0 { sample.max(1) } else { sample };
            let response: Vec<u32> =
                std::iter::once(said as u32).chain((0..8).map(|at| token(100 * said + 1000 * turn + at))).collect();
            rows.push(Row { prompt: prompt.clone(), response: response.clone(), temperature: 1.0 });
            prompt.extend(&response);
            prompt.extend((0..11).map(|at| token(17 * turn + at)));
        }
    }
    rows
}

/// The gradient of the loss over all rows without a value head.
fn by_tokens(scores: &Scores) -> Gradients {
    let rows: Vec<usize> = (0..scores.logp.len()).collect();
    Gradients { value: None, ..loss(&rows, scores).1 }
}

#[test]
fn turns_and_samples_of_an_agent() {
    let rows = agent_rows();
    check(&tiny("llama", false), &rows);
    let Policy { model, .. } = tiny("llama", false);
    let work = accumulate(&model, &sequences(&rows), &Options::default(), &mut by_tokens);
    // A prompt of 40, then for each sample two turns of 9 + 11 and one of 8: its last token is never read. Samples 0 and 1 share their first turn.
    assert_eq!(work.expect("rows").trie_tokens, 40 + 5 * 48 - 20);
}

/// What Agent Lightning 0.3 recorded of two runs of a calculator agent. Ids are renumbered, for a small vocabulary.
#[test]
fn recorded_transitions() {
    #[derive(serde::Deserialize)]
    struct Call {
        prompt_token_ids: Vec<u32>,
        response_token_ids: Vec<u32>,
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/forest/agent_lightning.jsonl");
    let text = std::fs::read_to_string(file).expect("the fixture");
    let calls: Vec<Call> = text.lines().map(|line| serde_json::from_str(line).expect("a call")).collect();
    let known: BTreeSet<u32> =
        calls.iter().flat_map(|call| call.prompt_token_ids.iter().chain(&call.response_token_ids)).copied().collect();
    let known: Vec<u32> = known.into_iter().collect();
    let small = |ids: &[u32]| ids.iter().map(|id| known.binary_search(id).expect("it is known") as u32).collect::<Vec<u32>>();
    let row =
        |call: &Call| Row { prompt: small(&call.prompt_token_ids), response: small(&call.response_token_ids), temperature: 1.0 };
    let rows: Vec<Row> = calls.iter().map(row).collect();
    for model_type in ["llama", "qwen3"] {
        let policy = with_vocabulary(model_type, true, known.len() as i64);
        check(&policy, &rows);
        let work = accumulate(&policy.model, &sequences(&rows), &Options::default(), &mut by_tokens).expect("rows");
        // Both runs asked and were answered the same, so that the trie is that of one of them.
        assert_eq!((work.row_tokens, work.trie_tokens), (148, 42));
    }
}

/// What is kept fills the memory that it may take, from the last layer on.
#[test]
fn memory_decides_what_is_kept() {
    let Policy { model, .. } = tiny("llama", true);
    // A layer keeps 7 * 16 + 5 * 4 * 8 + 5 * 2 * 8 + 4 * 24 = 448 numbers of 8 bytes a node; the logits are 23 a place.
    let kept = |activation_bytes| {
        let options = Options { activation_bytes, ..Options::default() };
        let Kept { from_layer, logits } = Kept::new(&model, 10, 5, &options);
        (from_layer, logits)
    };
    assert_eq!(kept(0), (3, false));
    assert_eq!(kept(919), (3, false));
    assert_eq!(kept(35_840), (2, false));
    assert_eq!(kept(3 * 35_840), (0, false));
    assert_eq!(kept(3 * 35_840 + 920), (0, true));
}

#[test]
fn rows_that_share_nothing() {
    let row = |first: u32| Row {
        prompt: (0..10 + first).map(|at| if at == 0 { first } else { (at * at + first) % VOCAB as u32 }).collect(),
        response: (0..5).map(|at| (at + first) % VOCAB as u32).collect(),
        temperature: 1.0,
    };
    check(&tiny("qwen3", true), &(0..6).map(row).collect::<Vec<_>>());
}

#[test]
fn more_nodes_than_go_through_a_layer_at_once() {
    let token = |at: u32| (at * at + at / 3) % VOCAB as u32;
    let rows: Vec<Row> = (0..3)
        .map(|row| Row {
            prompt: (0..900).map(token).collect(),
            response: (0..200).map(|at| token(at + 1000 * row)).collect(),
            temperature: 1.0,
        })
        .collect();
    check(&tiny("llama", true), &rows);
}

#[test]
fn frozen_weights_get_no_gradient() {
    let Policy { model, .. } = tiny("llama", true);
    for (name, parameter) in model.parameters() {
        let _ = parameter.set_requires_grad(name.contains("q_proj"));
    }
    let rows = agent_rows();
    accumulate(&model, &sequences(&rows), &Options::default(), &mut by_tokens).expect("rows");
    for (name, parameter) in model.parameters() {
        assert_eq!(parameter.grad().defined(), name.contains("q_proj"), "{name}");
    }
}

#[test]
fn what_cannot_be_computed_is_said() {
    let Policy { model, .. } = tiny("llama", true);
    let said = |prompt: &[u32], response: &[u32], temperature: f64| {
        let error = score(&model, &[Sequence { prompt, response, temperature }], &Options::default()).expect_err("a fault");
        format!("{error:#}")
    };
    assert_eq!(
        said(&[], &[1], 1.0),
        "row 0 of the micro-batch: a prompt without tokens: nothing predicts the first of the response"
    );
    assert_eq!(said(&[1], &[1], 0.0), "row 0 of the micro-batch: temperature 0 is not above 0");
    assert_eq!(said(&[1], &[99], 1.0), "row 0 of the micro-batch: token id 99 is outside of the vocabulary of 23");
    let rows = [Sequence { prompt: &[1], response: &[2, 3], temperature: 1.0 }];
    let error =
        accumulate(&model, &rows, &Options::default(), &mut |_| Gradients { logp: vec![vec![0.0]], entropy: None, value: None })
            .expect_err("a fault");
    assert_eq!(error.to_string(), "the gradient by `logp` has another shape than the responses");
    assert_eq!(score(&model, &[], &Options::default()).ok(), Some(Scores { logp: vec![], entropy: vec![], value: vec![] }));
    let empty = Sequence { prompt: &[1], response: &[], temperature: 1.0 };
    assert_eq!(
        score(&model, &[empty], &Options::default()).ok(),
        Some(Scores { logp: vec![vec![]], entropy: vec![vec![]], value: vec![] })
    );
}
