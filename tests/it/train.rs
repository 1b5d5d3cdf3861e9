//! The stage `train` as a user runs it: tiny policies, transitions written for the test, the program itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fulgurite::lake::{Lake, Lineage};
use fulgurite::model::{Model, ModelConfig};
use fulgurite::schema;
use fulgurite::train::forest::{self, Options, Sequence};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::peers::{self, Server};
use crate::rows;
use crate::stages::fulgurite;

/// Ids of the tiny tokenizer: a word each, and what ends a turn.
const WORDS: [&str; 16] =
    ["<end>", "user", "assistant", ":", "yes", "no", "zero", "one", "two", "three", "four", "five", "six", "seven", "is", "?"];
const END: u32 = 0;

/// A lake with a policy 0 of random weights and some transitions of batch `b`.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new(transitions: &[Value]) -> Bench {
        Bench::of(&|folder| tiny_policy(folder), transitions).await
    }

    /// * `policy`: makes policy 0 in a folder.
    async fn of(policy: &dyn Fn(&Path) -> PathBuf, transitions: &[Value]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let bench = Bench { folder };
        let lake = bench.lake().await;
        let mut run = lake.begin("policy", "0000").await.unwrap();
        run.put_policy(0, None, &policy(&bench.folder.path().join("tiny"))).await.unwrap();
        run.commit(Lineage::new("policy", json!({})).unwrap(), BTreeMap::new()).await.unwrap();
        bench.write(transitions).await;
        bench
    }

    async fn write(&self, transitions: &[Value]) {
        let lake = self.lake().await;
        let run = lake.begin("credit", "b").await.unwrap();
        let mut writer = run.writer("transitions", 0).unwrap();
        if !transitions.is_empty() {
            writer.write(&rows::batch(schema::table("transitions").unwrap(), transitions)).unwrap();
        }
        writer.finish().await.unwrap();
        run.commit(Lineage::new("credit", json!({ "rows": transitions })).unwrap(), BTreeMap::new()).await.unwrap();
    }

    fn location(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    async fn lake(&self) -> Lake {
        Lake::open(self.location().to_str().unwrap()).await.unwrap()
    }

    /// `fulgurite train` with settings of `train`, to be run or killed.
    fn command(&self, settings: &[&str]) -> Command {
        let mut command = fulgurite("train", self.location().to_str().unwrap());
        command.args(["--threads", "1"]);
        for setting in settings {
            command.args(["--set", &format!("train.{setting}")]);
        }
        command
    }

    fn train(&self, settings: &[&str]) -> Output {
        self.command(settings).output().unwrap()
    }

    /// Trains the newest policy on the same transitions as batch `c`, as if that policy had answered.
    async fn train_on_a_second_batch(&self, settings: &[&str]) {
        let lake = self.lake().await;
        let version = lake.policy(None).await.unwrap().version;
        let rows: Vec<Value> = game().into_iter().map(|row| with(row, json!({ "policy_version": version }))).collect();
        let run = lake.begin("credit", "c").await.unwrap();
        let mut writer = run.writer("transitions", 0).unwrap();
        writer.write(&rows::batch(schema::table("transitions").unwrap(), &rows)).unwrap();
        writer.finish().await.unwrap();
        run.commit(Lineage::new("credit", json!({})).unwrap(), BTreeMap::new()).await.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.args(["train", "--threads", "1", "--batch", "c", "--lake", self.location().to_str().unwrap()]);
        for setting in settings {
            command.args(["--set", &format!("train.{setting}")]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs to a good end; what it said.
    fn trained(&self, settings: &[&str]) -> String {
        let output = self.train(settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The rows of a query.
    fn query(&self, query: &str) -> Vec<Value> {
        let mut command = fulgurite("sql", self.location().to_str().unwrap());
        let output = command.args(["--format", "jsonl", query]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Hash of every file of a policy, by name.
    async fn files(&self, version: u64) -> Vec<(String, String)> {
        let policy = self.lake().await.policy(Some(version)).await.unwrap();
        policy.stored.files.into_iter().map(|file| (file.name, file.hash)).collect()
    }

    async fn model(&self, version: u64) -> Model {
        let lake = self.lake().await;
        let folder = lake.fetch_policy(&lake.policy(Some(version)).await.unwrap()).await.unwrap();
        Model::load(folder.path(), Device::Cpu, Kind::Double).unwrap()
    }

    /// Log-prob of a response under a policy.
    async fn logp(&self, version: u64, prompt: &[u32], response: &[u32]) -> f64 {
        let sequence = Sequence { prompt, response, temperature: 1.0 };
        forest::score(&self.model(version).await, &[sequence], &Options::default()).unwrap().logp[0].iter().sum()
    }
}

fn tiny_policy(folder: &Path) -> PathBuf {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS.len(), "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    });
    Model::random(ModelConfig::from_json(config).unwrap(), 5, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
    write_text_side(folder);
    folder.to_owned()
}

/// Tokenizer and template beside a model of `WORDS`.
fn write_text_side(folder: &Path) {
    let vocabulary: BTreeMap<&str, usize> = WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let end = json!({ "id": END, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "?" },
    });
    let template = "{% for message in messages %}{{ message.role }} : {{ message.content }} <end>\n{% endfor %}\
                    {% if add_generation_prompt %}assistant : {% endif %}";
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    write("tokenizer.json", &tokenizer);
    write("tokenizer_config.json", &json!({ "eos_token": "<end>", "chat_template": template }));
    write("generation_config.json", &json!({ "eos_token_id": END }));
}

/// A transition of the test: every column that may be null is, but for what training reads.
fn transition(group: &str, rollout: &str, step: i64, prompt: &[u32], response: &[u32]) -> Value {
    json!({
        "group_id": group, "task_id": group, "rollout_id": rollout, "call_id": format!("{rollout}-{step}"), "step": step, "split": "train",
        "policy_version": 0, "prompt_token_ids": prompt, "response_token_ids": response, "token_source": "engine", "temperature": 1.0,
        "behaviour_logprobs": vec![-2.75; response.len()], "finish_reason": "stop", "outcome": 1.0, "advantage": 1.0, "weight": 1.0,
    })
}

fn with(mut row: Value, changes: Value) -> Value {
    changes
        .as_object()
        .unwrap()
        .iter()
        .for_each(|(key, value)| drop(row.as_object_mut().unwrap().insert(key.clone(), value.clone())));
    row
}

/// Two groups of three rollouts: what says `yes` is rewarded. The second rollout of each has two calls.
fn game() -> Vec<Value> {
    let mut rows = Vec::new();
    for (group, question) in [("a", 6), ("b", 7)] {
        let prompt = [1, 3, question, 15, END, 2, 3];
        for (rollout, answer, advantage) in [(0, 4, 0.5), (1, 5, -0.5), (2, 4, 0.5)] {
            let changes = json!({ "advantage": advantage, "outcome": f64::from(answer == 4) });
            rows.push(with(transition(group, &format!("{group}{rollout}"), 0, &prompt, &[answer, END]), changes.clone()));
            if rollout == 1 {
                let longer = [&prompt[..], &[answer, END, 1, 3, 15, END, 2, 3]].concat();
                rows.push(with(transition(group, &format!("{group}{rollout}"), 1, &longer, &[answer, 14, END]), changes));
            }
        }
    }
    rows
}

const FAST: [&str; 2] = ["learning_rate=0.01", "optimiser.beta2=0.99"];

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_learns_what_is_rewarded() {
    let bench = Bench::new(&game()).await;
    let said = bench.trained(&[&FAST[..], &["epochs=4", "minibatches=2", "tokens=true"]].concat());
    assert!(said.contains("train b: done") && said.contains("step 8/8, loss"), "{said}");
    let prompt = [1, 3, 6, 15, END, 2, 3];
    let margin = async |version| bench.logp(version, &prompt, &[4, END]).await - bench.logp(version, &prompt, &[5, END]).await;
    let (before, after) = (margin(0).await, margin(1).await);
    assert!(after > before + 0.5, "{before} {after}");

    let steps = bench.query("select * from train_steps order by step");
    assert_eq!(steps.len(), 8);
    assert_eq!(steps[0]["policy_version"], 1);
    let sum = |name: &str| steps.iter().map(|step| step[name].as_i64().unwrap()).sum::<i64>();
    assert_eq!((sum("calls"), sum("rollouts"), sum("response_tokens")), (4 * 8, 4 * 6, 4 * 18));
    assert!(sum("trie_tokens") < sum("row_tokens"), "prompts are shared");
    assert!(steps.iter().all(|step| step["loss"].as_f64().unwrap().is_finite()));
    assert!(steps[0]["grad_norm"].as_f64().unwrap() > 0.0);
    // Group means of 2/3, by hand.
    assert!((steps[0]["frac_reward_zero_std"].as_f64().unwrap()).abs() < 1e-12);

    let tokens = bench.query("select * from train_tokens order by rollout_id, step, position");
    assert_eq!(tokens.len(), 18);
    let yes = tokens.iter().find(|token| token["rollout_id"] == "a0" && token["position"] == 0).unwrap();
    assert_eq!((yes["token_id"].as_i64(), yes["token"].as_str()), (Some(4), Some("yes")));
    let logp = |name: &str| yes[name].as_f64().unwrap();
    assert!((logp("logprob_before") - bench.logp(0, &prompt, &[4]).await).abs() < 1e-4);
    assert!((logp("logprob_after") - bench.logp(1, &prompt, &[4]).await).abs() < 1e-4);
    // What the sampler recorded, what credit gave, and where the ratio of now to then stands, by hand from the bounds 0.8, 1.28 and 3.
    for token in &tokens {
        let number = |name: &str| token[name].as_f64().unwrap();
        let (ratio, advantage) = ((number("logprob_after") - number("behaviour_logprob")).exp(), number("advantage"));
        assert_eq!((number("behaviour_logprob"), number("weight")), (-2.75, 1.0));
        assert_eq!(advantage, if token["rollout_id"].as_str().unwrap().ends_with('1') { -0.5 } else { 0.5 });
        let expected = match () {
            () if advantage > 0.0 && ratio > 1.28 => "high",
            () if advantage < 0.0 && ratio < 0.8 => "low",
            () if advantage < 0.0 && ratio > 3.0 => "dual",
            () => "none",
        };
        assert_eq!(token["clip"], expected, "{token}");
    }
    assert!(tokens.iter().any(|token| token["clip"] == "high"));

    assert!(bench.trained(&[&FAST[..], &["epochs=4", "minibatches=2", "tokens=true"]].concat()).contains("nothing to do"));
    assert!(bench.location().join("tensorboard/b/events.out.tfevents.0.fulgurite").is_file());
    // Everything but the weights is the parent's.
    let (zero, one) = (bench.files(0).await, bench.files(1).await);
    let changed: Vec<_> = zero.iter().zip(&one).filter(|(one, other)| one != other).map(|(one, _)| one.0.as_str()).collect();
    assert_eq!(changed, ["model.safetensors"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_traces_are_imitated() {
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let row = |rollout: &str, answer: &str, outcome: f64| {
        let changes = json!({
            "prompt_token_ids": null, "response_token_ids": null, "behaviour_logprobs": null, "policy_version": null, "advantage": null,
            "token_source": "none", "temperature": null, "drop_reason": "singleton", "outcome": outcome,
            "messages": json!([message("user", "three is ?")]).to_string(), "response": message("assistant", answer).to_string(),
        });
        with(transition(rollout, rollout, 0, &[], &[]), changes)
    };
    let rows = [row("r0", "three", 1.0), row("r1", "four", 0.0)];
    let bench = Bench::new(&rows).await;
    let output = bench.train(&[]);
    assert_eq!(output.status.code(), Some(1), "nothing can be compared");
    assert!(String::from_utf8_lossy(&output.stderr).contains("dropped by credit: 2 singleton"));

    bench.trained(&[&FAST[..], &["algorithm=sft", "min_outcome=1", "epochs=20"]].concat());
    let prompt = [1, 3, 9, 14, 15, END, 2, 3];
    assert!(bench.logp(1, &prompt, &[9, END]).await > bench.logp(0, &prompt, &[9, END]).await + 3.0);
    let steps = bench.query("select calls, response_tokens, entropy, ppo_kl from train_steps where step = 0");
    assert_eq!(steps[0]["calls"], 1, "the failed one is not imitated");
    assert_eq!(steps[0]["response_tokens"], 2, "the word and the end of the turn");
    assert_eq!(steps[0]["ppo_kl"], Value::Null, "imitation has no ratio");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trained_on_is_said() {
    let plain = || transition("a", "a0", 0, &[1, 3], &[4, END]);
    let cases: [(Vec<Value>, &[&str], i32, &str); 7] = [
        (vec![], &[], 1, "there is nothing to train on: the batch has no transitions"),
        (
            vec![with(plain(), json!({"drop_reason": "no_variance"}))],
            &[],
            1,
            "dropped by credit: 1 no_variance. A group whose rewards",
        ),
        (vec![with(plain(), json!({"behaviour_logprobs": null}))], &[], 1, "refused by train: 1 no_behaviour_logprobs"),
        (vec![with(plain(), json!({"policy_version": 3}))], &[], 1, "refused by train: 1 newer_policy"),
        (vec![with(plain(), json!({"temperature": 0.0}))], &[], 1, "refused by train: 1 greedy"),
        (vec![plain()], &["loss.correction.kind=icepop"], 2, "set `train.old_logprobs` to \"recompute\""),
        (vec![plain()], &["policy=4"], 2, "there is no policy 4"),
    ];
    for (rows, settings, code, expected) in cases {
        let bench = Bench::new(&rows).await;
        let output = bench.train(settings);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
        assert_eq!(bench.lake().await.policies().await.unwrap().len(), 1);
    }
    // Without the sampler's log-probs, the trainer's own will do.
    let bench = Bench::new(&[with(plain(), json!({"behaviour_logprobs": null}))]).await;
    bench.trained(&["old_logprobs=recompute"]);
    // The next policy is trained on rows of its own, and not on those of the one before.
    let lake = bench.lake().await;
    let mut run = lake.begin("policy", "0001").await.unwrap();
    let folder = lake.fetch_policy(&lake.policy(Some(1)).await.unwrap()).await.unwrap();
    run.put_policy(2, Some(1), folder.path()).await.unwrap();
    run.commit(Lineage::new("policy", json!({})).unwrap(), BTreeMap::new()).await.unwrap();
    let output = bench.train(&["policy=2"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("1 too_old_policy. `train.max_policy_lag` is 0"), "{said}");
    bench.trained(&["policy=2", "max_policy_lag=2", "old_logprobs=recompute"]);
    assert_eq!(bench.lake().await.policy(None).await.unwrap().parent, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_not_finite_are_left_out_and_three_in_a_row_end_the_run() {
    let infinite = |rollout: usize| {
        with(transition("a", &format!("a{rollout}"), 0, &[1, 3], &[4, END]), json!({ "weight": 1e308, "advantage": 1e308 }))
    };
    let bench = Bench::new(&(0..4).map(infinite).collect::<Vec<_>>()).await;
    let output = bench.train(&["minibatches=4"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("3 steps in a row have no finite loss") && said.contains("train.learning_rate"), "{said}");
    let states = bench.lake().await.manifest("checkpoint", "b").await.unwrap().unwrap().states;
    assert_eq!(states.keys().collect::<Vec<_>>(), ["aside-000000", "aside-000001", "aside-000002"]);

    let mut rows = game();
    rows[0] = with(rows[0].clone(), json!({ "weight": 1e308, "advantage": 1e308 }));
    let bench = Bench::new(&rows).await;
    let said = bench.trained(&["minibatches=6", "epochs=2"]);
    assert!(said.contains("was left out"), "{said}");
    let skipped = bench.query("select count(*) as n from train_steps where skipped");
    assert_eq!(skipped[0]["n"], 2);
    let model = bench.model(1).await;
    assert!(model.parameters().iter().all(|(_, weight)| weight.isfinite().all().int64_value(&[]) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_divergence_above_the_limit_ends_the_run_early() {
    let bench = Bench::new(&game()).await;
    let said = bench.trained(&[&FAST[..], &["epochs=50", "max_kl=0.05", "old_logprobs=recompute"]].concat());
    assert!(said.contains("above `train.max_kl`"), "{said}");
    let steps = bench.query("select max(approx_kl) as most, count(*) as n from train_steps");
    assert!(steps[0]["most"].as_f64().unwrap() <= 0.05);
    let count = steps[0]["n"].as_i64().unwrap();
    assert!((2..50).contains(&count), "{count}");
}

/// What a case of scripts/fixtures/train.py is called here, under `train.`.
fn settings_of(case: &Value) -> Vec<String> {
    let mut settings: Vec<String> =
        ["epochs=3", "learning_rate=0.01", "clip_norm=0.5", "optimiser.epsilon=0.001", "optimiser.weight_decay=0.1"]
            .map(str::to_owned)
            .into();
    for (key, value) in case.as_object().unwrap() {
        let name = match key.as_str() {
            "recompute" => {
                settings.push("old_logprobs=recompute".to_owned());
                continue;
            }
            "entropy_bonus" => "entropy_bonus",
            "kl" => "kl.coefficient",
            "kl_place" => "kl.place",
            "kl_estimator" => "kl.estimator",
            "correction" => "correction.kind",
            "low" => "correction.low",
            "high" => "correction.high",
            other => panic!("`{other}` is new"),
        };
        settings.push(format!("loss.{name}={}", value.as_str().map_or(value.to_string(), str::to_owned)));
    }
    settings
}

/// Three updates by PPO, with a divergence in the loss and in the reward, an entropy bonus, old log-probs computed anew and every correction for
/// another sampler, against PyTorch doing the same row by row: scripts/fixtures/train.py.
#[tokio::test(flavor = "multi_thread")]
async fn whole_updates_are_those_of_pytorch() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/train");
    let expected: Value = serde_json::from_slice(&std::fs::read(fixtures.join("rows.json")).unwrap()).unwrap();
    let rows: Vec<Value> = expected["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let ids = |name: &str| -> Vec<u32> { serde_json::from_value(row[name].clone()).unwrap() };
            let text = |name: &str| row[name].as_str().unwrap();
            let plain =
                transition(text("group"), text("rollout"), row["step"].as_i64().unwrap(), &ids("prompt"), &ids("response"));
            let names = ["temperature", "advantage", "weight", "behaviour_logprobs"];
            with(
                plain,
                names.iter().map(|name| ((*name).to_owned(), row[*name].clone())).collect::<serde_json::Map<_, _>>().into(),
            )
        })
        .collect();
    let policy = |folder: &Path| {
        std::fs::create_dir_all(folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixtures.join("model").join(name), folder.join(name)).unwrap();
        }
        write_text_side(folder);
        folder.to_owned()
    };
    let after = fulgurite::model::safetensors::read_all(&fixtures.join("after.safetensors")).unwrap();
    let cases = expected["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 9);
    for (index, (name, case)) in cases.iter().enumerate() {
        let settings = settings_of(&case["case"]);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let bench = Bench::of(&policy, &rows).await;
        // Two thirds of the cases in small pieces, or with no memory for activations, which are computed again.
        let pieces: &[&str] =
            [&[][..], &["micro_batch_tokens=12", "activation_checkpointing=always"], &["activation_mib=0"]][index % 3];
        bench.trained(&[&settings[..], pieces].concat());
        for (tensor, weight) in bench.model(1).await.parameters() {
            let expected = after[&format!("{name}.{tensor}")].to_kind(Kind::Double);
            let distance = (&weight - expected).abs().max().double_value(&[]);
            assert!(distance < 1e-6, "{name}, {tensor}: {distance}");
        }
        let steps = bench.query("select loss, grad_norm, correction_mean, frac_tokens_rejected from train_steps order by step");
        for (column, key) in [("loss", "losses"), ("grad_norm", "norms")] {
            for (step, expected) in steps.iter().zip(case[key].as_array().unwrap()) {
                assert!((step[column].as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-5, "{name}, {column}");
            }
        }
        if let Some(mean) = case["correction_mean"].as_f64() {
            assert!((steps[0]["correction_mean"].as_f64().unwrap() - mean).abs() < 1e-5, "{name}");
            let tokens: usize = rows.iter().map(|row| row["response_token_ids"].as_array().unwrap().len()).sum();
            let rejected = steps[0]["frac_tokens_rejected"].as_f64().unwrap() * tokens as f64;
            assert!((rejected - case["rejected"].as_f64().unwrap()).abs() < 1e-9, "{name}: {rejected}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn micro_batches_change_nothing() {
    let mut policies = Vec::new();
    for tokens in ["8", "20", "100000"] {
        let bench = Bench::new(&game()).await;
        let micro = format!("micro_batch_tokens={tokens}");
        // Adam makes steps of the rate's size out of gradients of any, so that a coarse epsilon is needed to see no more than rounding.
        bench.trained(&[&FAST[..], &["compute=f64", "epochs=2", "optimiser.epsilon=0.1", &micro]].concat());
        policies.push(bench.model(1).await.parameters());
    }
    for other in &policies[1..] {
        for ((name, one), (_, other)) in policies[0].iter().zip(other) {
            let distance = (one - other).abs().max().double_value(&[]);
            assert!(distance < 1e-7, "{name}: {distance}"); // saved in f32
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_trained_merged_and_gone_on_with() {
    let bench = Bench::new(&game()).await;
    let settings = ["lora.rank=2", "learning_rate=0.02", "epochs=4", "loss.kl.coefficient=0.1"];
    bench.trained(&settings);
    let prompt = [1, 3, 6, 15, END, 2, 3];
    let margin = async |version| bench.logp(version, &prompt, &[4, END]).await - bench.logp(version, &prompt, &[5, END]).await;
    assert!(margin(1).await > margin(0).await + 0.1);
    // The reference is the model without its adapter, which is what the first step still is.
    let steps = bench.query("select reference_kl from train_steps order by step");
    assert!(steps[0]["reference_kl"].as_f64().unwrap().abs() < 1e-9 && steps[3]["reference_kl"].as_f64().unwrap() > 1e-6);
    // What is no projection stays as it was.
    let names = ["model.embed_tokens.weight", "model.norm.weight"];
    let (zero, one) = (bench.model(0).await.parameters(), bench.model(1).await.parameters());
    for ((name, before), (_, after)) in zero.iter().zip(&one) {
        let kept = names.contains(&name.as_str()) || name.contains("layernorm");
        assert_eq!(before == after, kept, "{name}");
    }
    // The weights of policy 1 are those of policy 0 with the adapter that lies beside them.
    let lake = bench.lake().await;
    let folder = lake.fetch_policy(&lake.policy(Some(1)).await.unwrap()).await.unwrap();
    let mut model = bench.model(0).await;
    model.load_adapter(&folder.path().join("adapter")).unwrap();
    for ((name, one), (_, other)) in model.merged().parameters().iter().zip(&one) {
        assert!((one - other).abs().max().double_value(&[]) < 1e-6, "{name}");
    }
    // The next batch goes on with that adapter, on the weights of policy 0.
    bench.train_on_a_second_batch(&settings).await;
    let base =
        std::fs::read(lake.fetch_policy(&lake.policy(Some(2)).await.unwrap()).await.unwrap().path().join("adapter/base.json"));
    assert_eq!(serde_json::from_slice::<Value>(&base.unwrap()).unwrap()["policy"], 0);
    assert!(margin(2).await > margin(1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critic_learns_to_tell_returns_apart() {
    // Question 6 is worth 1, question 7 nothing.
    let rows: Vec<Value> =
        game().into_iter().map(|row| with(row.clone(), json!({ "return_value": f64::from(row["group_id"] == "a") }))).collect();
    let bench = Bench::new(&rows).await;
    let settings = ["critic.enabled=true", "critic.clip=inf", "critic.learning_rate=0.03", "learning_rate=0.001", "epochs=60"];
    bench.trained(&settings);
    let steps = bench.query("select vf_loss, vf_explained_variance, value_mean from train_steps order by step");
    let number = |step: usize, name: &str| steps[step][name].as_f64().unwrap();
    // A new head says 0 to all: half the mean square of the returns, times 0.5, is 0.125; nothing is explained.
    assert!((number(0, "vf_loss") - 0.125).abs() < 1e-9, "{}", number(0, "vf_loss"));
    assert_eq!((number(0, "vf_explained_variance"), number(0, "value_mean")), (0.0, 0.0));
    assert!(number(59, "vf_loss") < 0.02 && number(59, "vf_explained_variance") > 0.8, "{:?}", steps[59]);
    let names: Vec<String> = bench.files(1).await.into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"value_head.safetensors".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_too_large_is_refused_before_it_is_loaded() {
    let free_bytes = fulgurite::model::memory::available_bytes().unwrap();
    // Layers of 16.8 million weights, so many that the weights alone take half of what is free: their gradients and AdamW's means do not fit.
    let layers = free_bytes / 2 / (4 * (4 * 1024 * 1024 + 3 * 1024 * 4096));
    let policy = |folder: &Path| {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS.len(), "hidden_size": 1024,
            "intermediate_size": 4096, "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16,
            "max_position_embeddings": 64, "tie_word_embeddings": true,
        });
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::write(folder.join("model.safetensors"), "never read").unwrap();
        write_text_side(folder);
        folder.to_owned()
    };
    let bench = Bench::of(&policy, &game()).await;
    let output = bench.train(&["activation_checkpointing=never"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("training needs about") && said.contains("GB are free"), "{said}");
    assert!(said.contains("what would fit: `train.lora.rank=16`"), "{said}");
}

/// A row of 16384 tokens takes no more than what its tokens take: attention's scores alone would be 1 GiB. benches/train.py goes to 32768.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_linear_in_the_length_of_a_row() {
    let policy = |folder: &Path| {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS.len(), "hidden_size": 16,
            "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": true,
        });
        Model::random(ModelConfig::from_json(config).unwrap(), 5, Device::Cpu, Kind::Float).unwrap().save(folder).unwrap();
        write_text_side(folder);
        folder.to_owned()
    };
    let mut peaks_mib = Vec::new();
    for length in [1024, 16384] {
        let prompt: Vec<u32> = (0..length - 2).map(|token| token * 7 % 16).collect();
        let bench = Bench::of(&policy, &[transition("a", "a0", 0, &prompt, &[4, END])]).await;
        let mut child = bench.command(&[&FAST[..], &["micro_batch_tokens=32768"]].concat());
        let mut child = child.stderr(std::process::Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak_mib = 0;
        while child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            peak_mib = peak.map_or(peak_mib, |kib| kib / 1024);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.wait().unwrap().success());
        let steps = bench.query("select row_tokens, loss, grad_norm from train_steps");
        assert_eq!(steps[0]["row_tokens"], i64::from(length - 1), "the last token is read and computes nothing");
        assert!(steps[0]["loss"].as_f64().unwrap().is_finite() && steps[0]["grad_norm"].as_f64().unwrap() > 0.0);
        peaks_mib.push(peak_mib);
    }
    assert!(peaks_mib[0] > 0 && peaks_mib[1] < peaks_mib[0] + 256, "{peaks_mib:?} MiB");
}

/// Policies and checkpoints on an object store: the same policy as on a disk, and the same folder when it is exported.
#[test]
fn an_object_store_gives_the_same_policy() {
    let Some(python) = peers::python() else { return };
    let server = Server::start(Command::new(python).arg(peers::script("s3_server.py")).arg("lakes"));
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny_policy(&folder.path().join("tiny"));
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/langgraph");
    let (directory, store) = (folder.path().join("lake"), "s3://lakes/of/policies");
    let mut exported = Vec::new();
    for (lake, name) in [(directory.to_str().unwrap(), "from-directory"), (store, "from-store")] {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
            command.args(arguments).args(["--lake", lake]).env("AWS_ENDPOINT_URL", &server.url);
            let output = command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["policy", "import", "--from", tiny.to_str().unwrap()]);
        run(&["ingest", traces.to_str().unwrap(), "--batch", "b"]);
        run(&["build", "--batch", "b"]);
        let settings = ["old_logprobs=recompute", "checkpoint_steps=1", "minibatches=3", "learning_rate=0.01"];
        let settings: Vec<String> = settings.iter().map(|setting| format!("--set=train.{setting}")).collect();
        let train: Vec<&str> =
            ["train", "--batch", "b", "--threads", "1"].into_iter().chain(settings.iter().map(String::as_str)).collect();
        run(&train);
        let to = folder.path().join(name);
        run(&["policy", "export", "--version", "1", "--to", to.to_str().unwrap()]);
        let query = "select step, loss, grad_norm, row_tokens, trie_tokens from train_steps order by step";
        let files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(&to)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect();
        exported.push((run(&["sql", "--format", "jsonl", query]), files));
    }
    assert_eq!(exported[0].0.lines().count(), 3);
    assert_eq!(exported[0].0, exported[1].0);
    assert!(exported[0].1.contains_key("model.safetensors"));
    assert!(exported[0].1 == exported[1].1, "the exported folders differ");
}

/// Three trainings in a row on a lake that keeps one optimiser's state beside the best policy's.
#[tokio::test(flavor = "multi_thread")]
async fn states_of_older_optimisers_go_but_that_of_the_best_policy() {
    let bench = Bench::new(&game()).await;
    let lake = bench.lake().await;
    let with_state = async || -> Vec<u64> {
        let manifests = lake.policy_manifests().await.unwrap().into_iter().filter(|manifest| !manifest.states.is_empty());
        manifests.filter_map(|manifest| Some(manifest.policy?.version)).collect()
    };
    let folders = |batch: &str| std::fs::read_dir(bench.location().join("_states/train").join(batch)).map_or(0, Iterator::count);
    // What the rollouts of policies 1 to 4 earned: policy 2 is the best of those that are known when the last training ends.
    let earned = [("b", 0.1), ("c", 0.4), ("d", 0.9), ("e", 0.2), ("f", 0.3)];
    let mut kept = Vec::new();
    for (version, (batch, reward)) in earned.into_iter().enumerate() {
        let rows: Vec<Value> =
            game().into_iter().map(|row| with(row, json!({ "policy_version": version, "outcome": reward }))).collect();
        let run = lake.begin("credit", batch).await.unwrap();
        let mut writer = run.writer("transitions", 0).unwrap();
        writer.write(&rows::batch(schema::table("transitions").unwrap(), &rows)).unwrap();
        writer.finish().await.unwrap();
        run.commit(Lineage::new("credit", json!({ "rows": version })).unwrap(), BTreeMap::new()).await.unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
        command.args(["train", "--threads", "1", "--batch", batch, "--lake", bench.location().to_str().unwrap()]);
        let output = command.args(["--set", "train.keep_states=1"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("done"), "{}", String::from_utf8_lossy(&output.stderr));
        kept.push(with_state().await);
    }
    assert_eq!(kept, [vec![1], vec![1, 2], vec![2, 3], vec![2, 4], vec![2, 5]]);
    assert_eq!(["b", "c", "d", "e", "f"].map(folders), [0, 1, 0, 0, 1], "their files are gone too");
    // What is left of a policy whose state went is whole: it stands, and is trained from, with a word about the optimiser.
    assert_eq!(lake.policies().await.unwrap().len(), 6);
    assert!(bench.trained(&["keep_states=1"]).contains("nothing to do"));
}

/// values → credit by `gae` → train → values of the next policy, on recorded traces.
#[tokio::test(flavor = "multi_thread")]
async fn a_critic_goes_round() {
    let bench = Bench::new(&[]).await;
    let location = bench.location();
    let run = |subcommand: &str, settings: &[&str]| {
        let mut command = fulgurite(subcommand, location.to_str().unwrap());
        command.args(["--threads", "1"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        if subcommand == "ingest" {
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/langgraph"));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    for stage in ["ingest", "derive", "air", "values"] {
        run(stage, &[]);
    }
    let gae = ["credit.method=gae", "credit.comparison=none"];
    run("credit", &gae);
    let values = "select min(value) as least, max(value) as most, count(*) as n from \"values\"";
    let zero = bench.query(values);
    assert_eq!(
        (zero[0]["least"].as_f64(), zero[0]["most"].as_f64()),
        (Some(0.0), Some(0.0)),
        "a policy without a head expects nothing"
    );
    assert_eq!(zero[0]["n"], bench.query("select count(*) as n from calls")[0]["n"]);
    let critic = [
        "train.old_logprobs=recompute",
        "train.critic.enabled=true",
        "train.critic.clip=inf",
        "train.learning_rate=0.001",
        "train.epochs=3",
    ];
    run("train", &critic);
    assert!(run("values", &[]).contains("nothing to do"), "the batch's values stay those of the policy that is trained on it");
    run("values", &["train.policy=1"]);
    let one = bench.query(values);
    assert!(one[0]["most"].as_f64().unwrap() > 0.0, "{one:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_it_ends_with_the_same_bytes() {
    let settings = [&FAST[..], &["epochs=10", "minibatches=3", "checkpoint_steps=1"]].concat();
    let calm = Bench::new(&game()).await;
    let started = Instant::now();
    calm.trained(&settings);
    let undisturbed = started.elapsed();
    let expected = calm.files(1).await;
    let again = Bench::new(&game()).await;
    again.trained(&settings);
    assert_eq!(again.files(1).await, expected, "same inputs and seed, same bytes");

    let killed = Bench::new(&game()).await;
    let (mut went_on, mut ended) = (0, false);
    for kill in 0..30u32 {
        let log = killed.folder.path().join(format!("log-{kill}"));
        let mut child = killed.command(&settings).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        std::thread::sleep(undisturbed.mul_f64(0.2 + 0.15 * f64::from(kill % 5)));
        ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        went_on += u32::from(std::fs::read_to_string(&log).unwrap().contains("going on after step"));
        if ended {
            break;
        }
    }
    if !ended {
        killed.trained(&settings);
    }
    assert!(went_on > 0, "no run went on from a checkpoint");
    assert_eq!(killed.files(1).await, expected);
    let columns = "step, loss, grad_norm, entropy, approx_kl, trie_tokens";
    let query = format!("select {columns} from train_steps order by step");
    assert_eq!(killed.query(&query), calm.query(&query));
    let left = killed.lake().await.manifest("checkpoint", "b").await.unwrap().unwrap();
    assert!(left.states.is_empty(), "checkpoints go with the run's end: {:?}", left.states.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_goes_on_where_it_was() {
    let settings = [&FAST[..], &["epochs=200", "minibatches=3", "checkpoint_steps=0"]].concat();
    let bench = Bench::new(&game()).await;
    let log = bench.folder.path().join("log");
    let mut child = bench.command(&settings).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&log).unwrap().contains("step 1/") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let code = child.wait().unwrap().code();
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("the same command goes on from there"), "{said}");
    let shorter = bench.trained(&settings);
    assert!(shorter.contains("going on after step"), "{shorter}");
}
