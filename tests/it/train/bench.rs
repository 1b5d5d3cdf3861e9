//! A lake with a tiny policy and transitions that are written for a test, and the program that trains on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fulgurite::lake::{Lake, Lineage};
use fulgurite::model::{Model, ModelConfig};
use fulgurite::schema;
use fulgurite::train::forest::{self, Options, Sequence};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::rows;
use crate::stages::fulgurite;

/// Ids of the tiny tokenizer: a word each, and what ends a turn.
pub const WORDS: [&str; 16] =
    ["<end>", "user", "assistant", ":", "yes", "no", "zero", "one", "two", "three", "four", "five", "six", "seven", "is", "?"];
pub const END: u32 = 0;

/// A lake with a policy 0 of random weights and some transitions of batch `b`.
pub struct Bench {
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub async fn new(transitions: &[Value]) -> Bench {
        Bench::of(&|folder| tiny_policy(folder), transitions).await
    }

    /// * `policy`: makes policy 0 in a folder.
    pub async fn of(policy: &dyn Fn(&Path) -> PathBuf, transitions: &[Value]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let bench = Bench { folder };
        let lake = bench.lake().await;
        let mut run = lake.begin("policy", "0000").await.unwrap();
        run.put_policy(0, None, &policy(&bench.folder.path().join("tiny"))).await.unwrap();
        run.commit(Lineage::new("policy", json!({})).unwrap(), BTreeMap::new()).await.unwrap();
        bench.write(transitions).await;
        bench
    }

    pub async fn write(&self, transitions: &[Value]) {
        let lake = self.lake().await;
        let run = lake.begin("credit", "b").await.unwrap();
        let mut writer = run.writer("transitions", 0).unwrap();
        if !transitions.is_empty() {
            writer.write(&rows::batch(schema::table("transitions").unwrap(), transitions)).unwrap();
        }
        writer.finish().await.unwrap();
        run.commit(Lineage::new("credit", json!({ "rows": transitions })).unwrap(), BTreeMap::new()).await.unwrap();
    }

    pub fn location(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    pub async fn lake(&self) -> Lake {
        Lake::open(self.location().to_str().unwrap()).await.unwrap()
    }

    /// `fulgurite train` with settings of `train`, to be run or killed.
    pub fn command(&self, settings: &[&str]) -> Command {
        let mut command = fulgurite("train", self.location().to_str().unwrap());
        command.args(["--threads", "1"]);
        for setting in settings {
            command.args(["--set", &format!("train.{setting}")]);
        }
        command
    }

    pub fn train(&self, settings: &[&str]) -> Output {
        self.command(settings).output().unwrap()
    }

    /// Trains the newest policy on the same transitions as batch `c`, as if that policy had answered.
    pub async fn train_on_a_second_batch(&self, settings: &[&str]) {
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
    pub fn trained(&self, settings: &[&str]) -> String {
        let output = self.train(settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The rows of a query.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let mut command = fulgurite("sql", self.location().to_str().unwrap());
        let output = command.args(["--format", "jsonl", query]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Hash of every file of a policy, by name.
    pub async fn files(&self, version: u64) -> Vec<(String, String)> {
        let policy = self.lake().await.policy(Some(version)).await.unwrap();
        policy.stored.files.into_iter().map(|file| (file.name, file.hash)).collect()
    }

    pub async fn model(&self, version: u64) -> Model {
        let lake = self.lake().await;
        let folder = lake.fetch_policy(&lake.policy(Some(version)).await.unwrap()).await.unwrap();
        Model::load(folder.path(), Device::Cpu, Kind::Double).unwrap()
    }

    /// Log-prob of a response under a policy.
    pub async fn logp(&self, version: u64, prompt: &[u32], response: &[u32]) -> f64 {
        let sequence = Sequence { prompt, response, temperature: 1.0 };
        forest::score(&self.model(version).await, &[sequence], &Options::default()).unwrap().logp[0].iter().sum()
    }
}

pub fn tiny_policy(folder: &Path) -> PathBuf {
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
pub fn write_text_side(folder: &Path) {
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
pub fn transition(group: &str, rollout: &str, step: i64, prompt: &[u32], response: &[u32]) -> Value {
    json!({
        "group_id": group, "task_id": group, "rollout_id": rollout, "call_id": format!("{rollout}-{step}"), "step": step, "split": "train",
        "policy_version": 0, "prompt_token_ids": prompt, "response_token_ids": response, "token_source": "engine", "temperature": 1.0,
        "behaviour_logprobs": vec![-2.75; response.len()], "finish_reason": "stop", "outcome": 1.0, "advantage": 1.0, "weight": 1.0,
    })
}

pub fn with(mut row: Value, changes: Value) -> Value {
    changes
        .as_object()
        .unwrap()
        .iter()
        .for_each(|(key, value)| drop(row.as_object_mut().unwrap().insert(key.clone(), value.clone())));
    row
}

/// Two groups of three rollouts: what says `yes` is rewarded. The second rollout of each has two calls.
pub fn game() -> Vec<Value> {
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

pub const FAST: [&str; 2] = ["learning_rate=0.01", "optimiser.beta2=0.99"];
