//! The engine on tiny random models: against transformers, against a full forward, and against itself under other circumstances.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::model::Model;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn load(name: &str) -> Model {
    Model::load(&Path::new(FOLDER).join("models").join(name), Device::Cpu, Kind::Float).expect(name)
}

fn engine(name: &str, config: GenerateConfig) -> Engine {
    tch::set_num_threads(1);
    Engine::start(load(name), GenerateConfig { kv_mib: 1, block_tokens: 4, ..config }).expect("starts")
}

fn request(prompt: Vec<u32>, sample: u64, sampling: Sampling) -> Request {
    Request { prompt, sampling, key: Key { seed: 5, sample, ..Key::default() } }
}

/// A group of requests on one prompt, a second turn of one of them, others that begin alike, and some that share nothing.
fn mixed_requests() -> Vec<Request> {
    let prompt = |length: u32, step: u32| (0..length).map(|place| (place * step + 3) % 31).collect::<Vec<u32>>();
    let sampling = |sample: u64| match sample % 3 {
        0 => Sampling { max_tokens: 23, ..Sampling::default() },
        1 => Sampling { max_tokens: 30, temperature: 0.6, top_p: 0.9, logprobs: 2, ..Sampling::default() },
        _ => Sampling { max_tokens: 9, temperature: 1.3, top_k: 12, repetition_penalty: 1.1, ..Sampling::default() },
    };
    let prompts =
        [vec![prompt(37, 5); 8], vec![prompt(53, 5); 4], vec![prompt(3, 7), prompt(20, 9), prompt(90, 11), prompt(1, 1)]];
    let mut requests: Vec<Request> = Vec::new();
    for prompt in prompts.concat() {
        let sample = requests.len() as u64;
        requests.push(request(prompt, sample, sampling(sample)));
    }
    requests
}

/// Log-probabilities of a response by one forward over everything, at the temperature.
fn full_forward(model: &Model, prompt: &[u32], response: &[u32], temperature: f64) -> Vec<f64> {
    let ids: Vec<i64> = prompt.iter().chain(response).map(|id| i64::from(*id)).collect();
    let logits_nv = tch::no_grad(|| model.forward(&Tensor::from_slice(&ids))).to_kind(Kind::Double) / temperature;
    let logp_nv = logits_nv.log_softmax(-1, None);
    let place = |index: usize| [(prompt.len() + index - 1) as i64, ids[prompt.len() + index]];
    (0..response.len()).map(|index| logp_nv.double_value(&place(index))).collect()
}

#[derive(Deserialize)]
struct Fixture {
    greedy: BTreeMap<String, Vec<Greedy>>,
    processed: Vec<Processed>,
}

#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    logprobs: Vec<f64>,
}

#[derive(Deserialize)]
pub(super) struct Processed {
    pub logits: Vec<f32>,
    pub seen: Vec<u32>,
    pub settings: BTreeMap<String, f64>,
    pub logprobs: Vec<Option<f64>>,
}

fn fixture() -> Fixture {
    let text = std::fs::read(Path::new(FOLDER).join("generate.json")).expect("the fixture is there");
    serde_json::from_slice(&text).expect("the fixture reads")
}

pub(super) fn processed() -> Vec<Processed> {
    fixture().processed
}

#[test]
fn greedy_is_that_of_transformers() {
    for (name, cases) in fixture().greedy {
        assert!(cases.len() >= 3, "{name} has {} cases", cases.len());
        for deterministic in [false, true] {
            let engine = engine(&name, GenerateConfig { deterministic, prefill_chunk: 7, ..GenerateConfig::default() });
            let requests = cases.iter().map(|case| {
                let sampling = Sampling { temperature: 0.0, max_tokens: case.ids.len(), ..Sampling::default() };
                request(case.prompt.clone(), 0, sampling)
            });
            let completions = complete(&engine, requests.collect()).expect("completes");
            for (case, completion) in cases.iter().zip(completions) {
                assert_eq!(completion.ids, case.ids, "{name}, prompt of {}", case.prompt.len());
                for (ours, theirs) in completion.behaviour_logprobs.iter().zip(&case.logprobs) {
                    assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{name}: {ours} is not {theirs}");
                }
            }
        }
    }
}

#[test]
fn recorded_logprobs_are_those_of_a_full_forward() {
    for name in ["llama_tied", "llama_biased", "qwen2", "qwen3", "yarn_mscale"] {
        for prefix_reuse in [true, false] {
            let engine = engine(name, GenerateConfig { prefix_reuse, prefill_chunk: 33, ..GenerateConfig::default() });
            let requests = mixed_requests();
            let completions = complete(&engine, requests.clone()).expect("completes");
            let model = load(name);
            for (request, completion) in requests.iter().zip(&completions) {
                assert_eq!(completion.ids.len(), request.sampling.max_tokens);
                let expected = full_forward(&model, &request.prompt, &completion.ids, request.sampling.temperature);
                for (ours, theirs) in completion.behaviour_logprobs.iter().zip(expected) {
                    assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{name}: {ours} is not {theirs}");
                }
            }
            let stats = engine.stats();
            assert_eq!((stats.finished, stats.running, stats.waiting, stats.blocks_used), (16, 0, 0, 0));
            assert_eq!(stats.cached_tokens > 0, prefix_reuse);
        }
    }
}

#[test]
fn adapters_count() {
    let mut adapted = [load("llama_tied"), load("llama_tied")];
    for model in &mut adapted {
        model.load_adapter(&Path::new(FOLDER).join("models/lora")).expect("the adapter loads");
    }
    let [model, to_serve] = adapted;
    let engine = Engine::start(to_serve, GenerateConfig { kv_mib: 1, ..GenerateConfig::default() }).expect("starts");
    let request = request(vec![4, 9, 2], 0, Sampling { max_tokens: 40, ..Sampling::default() });
    let completion = complete(&engine, vec![request.clone()]).expect("completes").remove(0);
    let expected = full_forward(&model, &request.prompt, &completion.ids, 1.0);
    let base = full_forward(&model.without_adapter(), &request.prompt, &completion.ids, 1.0);
    let furthest = |other: &[f64]| {
        let differences = completion.behaviour_logprobs.iter().zip(other).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs());
        differences.fold(0.0, f64::max)
    };
    assert!(furthest(&expected) < 1e-4 && furthest(&base) > 1e-2, "{} and {}", furthest(&expected), furthest(&base));
}

#[test]
fn half_precision_stays_near() {
    let model = Model::load(&Path::new(FOLDER).join("models/qwen3"), Device::Cpu, Kind::BFloat16).expect("loads");
    let engine = Engine::start(model, GenerateConfig { kv_mib: 1, ..GenerateConfig::default() }).expect("starts");
    let request = request((0..30).collect(), 0, Sampling { max_tokens: 20, ..Sampling::default() });
    let completion = complete(&engine, vec![request.clone()]).expect("completes").remove(0);
    let expected = full_forward(&load("qwen3"), &request.prompt, &completion.ids, 1.0);
    for (ours, theirs) in completion.behaviour_logprobs.iter().zip(expected) {
        // Eight bits of mantissa, and logits of a few units.
        assert!((f64::from(*ours) - theirs).abs() < 0.15, "{ours} is not {theirs}");
    }
}

#[test]
fn deterministic_is_the_same_bytes_in_any_company() {
    // Of each kind of request some, short: this runs them all six times.
    let requests: Vec<Request> = mixed_requests()
        .into_iter()
        .filter(|request| request.prompt.len() < 50)
        .skip(3)
        .map(|mut request| {
            request.sampling.max_tokens = 4 + request.sampling.max_tokens / 4;
            request
        })
        .collect();
    let run = |name: &str, max_batch: usize, prefix_reuse: bool, prefill_chunk: usize| {
        let config = GenerateConfig { deterministic: true, max_batch, prefix_reuse, prefill_chunk, ..GenerateConfig::default() };
        let engine = engine(name, config);
        let mut all = complete(&engine, requests.clone()).expect("completes");
        // The next turn of each: what was sampled is part of the prompt now, out of the cache or computed anew.
        let next_turn = |(request, completion): (&Request, &Completion)| {
            let mut request = request.clone();
            request.prompt.extend(completion.ids.iter().chain(&[1, 2, 3]));
            request
        };
        let turns = requests.iter().zip(&all).map(next_turn).collect();
        all.extend(complete(&engine, turns).expect("completes"));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        let bytes = |one: &Completion| (one.ids.clone(), bits(&one.behaviour_logprobs), bits(&one.sampled_logprobs));
        assert_eq!(engine.stats().cached_tokens > 0, prefix_reuse);
        all.iter().map(bytes).collect::<Vec<_>>()
    };
    for (name, others) in
        [("llama_tied", [(1, true, 64), (3, true, 5), (16, false, 19)].as_slice()), ("qwen3", [(16, true, 64)].as_slice())]
    {
        let alone = run(name, 1, false, 64);
        for (max_batch, prefix_reuse, prefill_chunk) in others.iter().copied() {
            let other = run(name, max_batch, prefix_reuse, prefill_chunk);
            assert!(other == alone, "{name} at {max_batch}, reuse {prefix_reuse}, chunks of {prefill_chunk}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let engine = engine("llama_tied", GenerateConfig { max_context: 20, ..GenerateConfig::default() });
    let refusal = |prompt: Vec<u32>, sampling: Sampling| engine.submit(request(prompt, 0, sampling)).expect_err("refused");
    assert_eq!(refusal(vec![], Sampling::default()), Refusal::Empty);
    assert_eq!(refusal(vec![1; 20], Sampling::default()), Refusal::TooLong { prompt: 20, limit: 19 });
    assert_eq!(refusal(vec![1, 31], Sampling::default()), Refusal::UnknownId { id: 31, vocabulary: 31 });
    let cold = Sampling { temperature: -1.0, ..Sampling::default() };
    assert_eq!(refusal(vec![1], cold), Refusal::Sampling("`temperature` is -1; it has to be from 0 to 100".to_owned()));
    let longest = complete(&engine, vec![request(vec![1; 19], 0, Sampling::default())]).expect("completes");
    assert_eq!((longest[0].ids.len(), longest[0].finish), (1, Finish::Length));
}

#[test]
fn a_panic_fails_the_request_and_not_the_engine() {
    let mut model = load("llama_tied");
    // The norm after the last layer does not fit any more, so that each step breaks off in its middle.
    model.norm_d = Tensor::ones([3], (Kind::Float, Device::Cpu));
    let engine = Engine::start(model, GenerateConfig { kv_mib: 1, ..GenerateConfig::default() }).expect("starts");
    for _ in 0..2 {
        let error = complete(&engine, vec![request(vec![1, 2], 0, Sampling::default())]).expect_err("fails");
        let expected =
            "the engine broke off: The size of tensor a (16) must match the size of tensor b (3) at non-singleton dimension 1";
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(engine.stats().failed, 2);
}

#[test]
fn shutting_down_cancels_what_is_under_way() {
    let engine = engine("llama_tied", GenerateConfig::default());
    let events = engine.submit(request(vec![1], 0, Sampling { max_tokens: 200, ..Sampling::default() })).expect("taken");
    engine.shutdown();
    let mut last = None;
    let mut events = events;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Finished(Finish::Cancelled | Finish::Length))), "{last:?}");
}
