//! Rollouts from tasks to tables, on a tiny policy with random weights: agents that are commands, the built-in one, runs that were killed.

mod mistakes;

use std::collections::BTreeMap;
use std::path::Path;

use fulgurite::config::Config;
use fulgurite::lake::Lake;
use fulgurite::policy::new::Sizes;
use fulgurite::policy::{self, As};
use fulgurite::progress::Progress;
use fulgurite::rollout::{self, Options, Shard};
use fulgurite::stage::{Context, Stop};
use fulgurite::{derive, ingest};
use serde_json::json;

use crate::cases::{BATCH, query, texts};
use crate::serve::scripted::Upstream;

/// Acts as its task says; in `ask` it calls the policy as any client of OpenAI's API does.
const AGENT: &str = r#"
import json, os, sys, time, urllib.request

task = json.loads(sys.stdin.readline())
assert "expected" not in task
what = task["input"]
if what == "crash":
    sys.exit("broken")
if what == "hang":
    time.sleep(60)
if what == "flood":
    sys.stdout.write("x\n" * 5_000_000)

def post(url, body):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.load(opener.open(request))

body = {"model": "any", "messages": [{"role": "user", "content": what}], "max_tokens": 4}
for _ in range(2 if what == "greedy" else 1):
    post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)
if what == "reward":
    post(os.environ["FULGURITE_REWARD_URL"], {"value": 0.25})
print(json.dumps({"answer": what}))
"#;

pub fn context(lake: &Lake, batch: &str, folder: &Path, settings: &[&str]) -> Context {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    let config = Config { folder: Some(folder.to_path_buf()), threads: 1, ..Config::load(None, &settings).unwrap() };
    Context {
        lake: lake.clone(),
        batch: batch.to_owned(),
        config,
        rebuild: false,
        dry_run: false,
        progress: Progress::default(),
        stop: Stop::default(),
    }
}

pub async fn lake_with_policy(folder: &Path) -> Lake {
    let lake = Lake::open(folder.join("lake").to_str().unwrap()).await.unwrap();
    std::fs::write(folder.join("words.txt"), "What is 2 + 2? Use the calculator, then answer with the number.").unwrap();
    let sizes = Sizes { hidden: 32, layers: 2, heads: 2, vocab: 320, context: 512, seed: 1 };
    let mut context = context(&lake, "0000", folder, &[]);
    policy::make(&mut context, &sizes, &[folder.join("words.txt")], As::First).await.unwrap();
    lake
}

fn write_tasks(folder: &Path, inputs: &[&str]) {
    let line = |(number, input): (usize, &&str)| {
        json!({"id": format!("t{number}"), "input": input, "expected": "ask"}).to_string() + "\n"
    };
    std::fs::write(folder.join("tasks.jsonl"), inputs.iter().enumerate().map(line).collect::<String>()).unwrap();
}

/// The column `line` of a query over the batch's tables.
async fn lines(context: &Context, sql: &str) -> Vec<String> {
    let traces = format!("{}/traces/batch={}/*.otlp.jsonl.zst", context.lake.location(), context.batch);
    ingest::run(context, &[traces]).await.unwrap();
    derive::run(context).await.unwrap();
    texts(&query(context, sql).await.unwrap(), "line")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_agent_ends_in_a_class_and_none_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake_with_policy(folder.path()).await;
    std::fs::write(folder.path().join("agent.py"), AGENT).unwrap();
    write_tasks(folder.path(), &["ask", "other", "crash", "hang", "flood", "reward", "greedy"]);
    let settings = [
        "agent.command=['python3', 'agent.py']",
        "agent.timeout_s=5",
        "agent.grace_s=0.2",
        "agent.max_calls=1",
        "agent.concurrency=3",
        "agent.retry=['infrastructure', 'timeout']",
        "agent.retries=1",
        "agent.failure_reward=-0.5",
        "agent.grader.kind=exact",
        "rollout.tasks=tasks.jsonl",
        "rollout.samples=1",
        "generate.kv_mib=16",
    ];
    let context = context(&lake, BATCH, folder.path(), &settings);
    let summary = rollout::run(&context, &Options::default()).await.unwrap();
    let told = |name: &str| summary.counts.get(name).copied().unwrap_or(0);
    assert_eq!((told("rollouts_run"), told("failed_agent"), told("failed_timeout")), (7, 2, 1), "{:?}", summary.counts);
    assert_eq!((told("attempts_retried"), told("failed_infrastructure")), (1, 0));

    let sql = "select concat_ws(' ', task_id, status, failure_class, reward, calls, policy_version) as line from rollouts order by task_id";
    let expected = [
        "t0 succeeded 1.0 1 0",     // answers as expected
        "t1 succeeded 0.0 1 0",     // something else
        "t4 succeeded 0.0 1 0",     // wrote megabytes, and went on
        "t5 succeeded 0.0 1 0",     // stated a reward, but the grader's comes last
        "t6 failed agent -0.5 1 0", // its second call was refused, which is no call, and its client raised
    ];
    // Runs without an LLM call are no rollouts: nothing can be learned from them.
    assert_eq!(lines(&context, sql).await, expected);
    assert_eq!(rollout::run(&context, &Options::default()).await.unwrap().status, "nothing_to_do");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_agent_samples_the_same_at_any_concurrency_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake_with_policy(folder.path()).await;
    write_tasks(folder.path(), &["What is 2 + 2?", "What is 2 + 3?", "What is 3 + 3?"]);
    let settings = |concurrency: usize| {
        let concurrency = format!("agent.concurrency={concurrency}");
        let mut settings = vec![
            "agent.builtin=calculator".to_owned(),
            "agent.grader.kind=exact".to_owned(),
            "rollout.tasks=tasks.jsonl".to_owned(),
            "rollout.samples=2".to_owned(),
            "generate.kv_mib=16".to_owned(),
            "generate.deterministic=true".to_owned(),
        ];
        settings.push(concurrency);
        settings
    };
    let sql = "select concat_ws(' ', rollout_id, step, array_to_string(response_token_ids, ','), array_to_string(behaviour_logprobs, ',')) \
               as line from calls order by rollout_id, step";
    let mut found = BTreeMap::new();
    for concurrency in [1, 5] {
        let settings = settings(concurrency);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let location = folder.path().join(format!("lake-{concurrency}"));
        let other = Lake::open(location.to_str().unwrap()).await.unwrap();
        let mut import = context(&other, "0000", folder.path(), &[]);
        let exported = folder.path().join(format!("policy-{concurrency}"));
        policy::export(&lake, None, &exported).await.unwrap();
        policy::import(&mut import, &exported, As::First).await.unwrap();
        let context = context(&other, BATCH, folder.path(), &settings);
        if concurrency == 5 {
            // The first shard stands for a run that was killed: its rollouts are in the lake, and no manifest is.
            let options = Options { version: None, shard: Some(Shard { index: 0, count: 2 }) };
            let summary = rollout::run(&context, &options).await.unwrap();
            assert_eq!((summary.counts["rollouts_run"], summary.manifest.as_str()), (3, ""));
            assert!(other.manifest("rollout", BATCH).await.unwrap().is_none());
            let traces = || -> BTreeMap<String, Vec<u8>> {
                let files = std::fs::read_dir(location.join(format!("traces/batch={BATCH}"))).unwrap().flatten();
                files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
            };
            let before = traces();
            assert_eq!(before.len(), 3);
            rollout::run(&context, &Options::default()).await.unwrap();
            let after = traces();
            assert_eq!(after.len(), 6);
            assert!(before.iter().all(|(name, bytes)| &after[name] == bytes), "what had ended was not run again");
        } else {
            rollout::run(&context, &Options::default()).await.unwrap();
        }
        let manifest = other.manifest("rollout", BATCH).await.unwrap().unwrap();
        assert_eq!(manifest.states["traces"].files.len(), 6);
        found.insert(concurrency, lines(&context, sql).await);
    }
    assert!(found[&1].len() >= 6);
    assert_eq!(found[&1], found[&5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_teach_nothing_are_followed_by_further_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake_with_policy(folder.path()).await;
    // No answer of a policy with random weights is right, so that every group earns the same.
    write_tasks(folder.path(), &["What is 2 + 2?", "What is 2 + 3?", "What is 3 + 3?", "What is 3 + 4?", "What is 4 + 4?"]);
    let settings = [
        "agent.builtin=calculator",
        "agent.grader.kind=exact",
        "rollout.tasks=tasks.jsonl",
        "rollout.tasks_per_iteration=2",
        "rollout.samples=2",
        "rollout.max_tokens=3",
        "rollout.top_p=0.9",
        "generate.kv_mib=16",
    ];
    let run = |refill: u64, batch: &'static str| {
        let refill = format!("rollout.refill={refill}");
        context(&lake, batch, folder.path(), &[&settings[..], &[&refill]].concat())
    };
    for (refill, batch, expected) in [(0, "iter-0000", 4), (1, BATCH, 8), (9, "iter-0002", 10)] {
        let context = run(refill, batch);
        let summary = rollout::run(&context, &Options::default()).await.unwrap();
        assert_eq!(summary.counts["rollouts_run"], expected, "{batch}");
        assert_eq!(rollout::run(&context, &Options::default()).await.unwrap().status, "nothing_to_do");
    }
    // A run that was killed with a part of its traces written comes to the same tasks.
    let traces = |batch: &str| {
        let listed = std::fs::read_dir(folder.path().join("lake/traces").join(format!("batch={batch}"))).unwrap();
        listed.map(|entry| entry.unwrap().path()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = traces(BATCH);
    std::fs::remove_dir_all(folder.path().join("lake/_manifests/rollout").join(BATCH)).unwrap();
    before.iter().step_by(3).for_each(|path| std::fs::remove_file(path).unwrap());
    let context = run(1, BATCH);
    rollout::run(&context, &Options::default()).await.unwrap();
    assert_eq!(traces(BATCH), before);

    let longest = lines(&context, "select concat_ws(' ', max(output_tokens), max(top_p)) as line from calls").await;
    assert_eq!(longest, ["3 0.9"]);
    let shard = Options { shard: Some(Shard { index: 0, count: 2 }), ..Options::default() };
    let error = rollout::run(&run(1, "iter-0003"), &shard).await.unwrap_err().to_string();
    assert!(error.contains("rollout.refill"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_given_the_policy_before_agents_ask_it() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake_with_policy(folder.path()).await;
    std::fs::write(folder.path().join("agent.py"), AGENT).unwrap();
    write_tasks(folder.path(), &["ask"]);
    let upstream = Upstream::start().await;
    let at = format!("serve.upstream='{}'", upstream.url);
    let settings = [
        "agent.command=['python3', 'agent.py']",
        "agent.grader.kind=exact",
        "rollout.tasks=tasks.jsonl",
        "rollout.samples=2",
        &at,
        "serve.dialect=vllm",
        "serve.upstream_update=adapter",
        "train.lora.rank=8",
    ];
    // As training leaves it: the weights with the adapter merged, and the adapter.
    let adapter = std::fs::read_dir(folder.path().join("lake/policies")).unwrap().next().unwrap().unwrap().path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    let untrained = context(&lake, BATCH, folder.path(), &settings[..settings.len() - 1]);
    let error = rollout::run(&untrained, &Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("train.lora.rank"), "{error}");
    let context = context(&lake, BATCH, folder.path(), &settings);
    rollout::run(&context, &Options::default()).await.unwrap();
    let updates = upstream.updates();
    assert_eq!(updates.len(), 1, "{updates:?}");
    assert_eq!(updates[0]["lora_name"], "policy-0000");
    assert_eq!(updates[0]["lora_path"].as_str(), adapter.to_str(), "vLLM reads the adapter, not the weights");
    assert_eq!(upstream.last()["model"], "policy-0000", "what the agent asks for is the version that was given");
    let sql = "select concat_ws(' ', step, policy_version, array_to_string(response_token_ids, ','), array_to_string(behaviour_logprobs, ',')) \
               as line from calls";
    assert_eq!(lines(&context, sql).await, ["0 0 11,12 -0.5,-0.25"; 2]);
}
