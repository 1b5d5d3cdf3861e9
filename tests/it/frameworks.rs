//! Agents of real frameworks, unchanged, in worker mode: what they do against a scripted teacher comes back as rollouts, calls of named agents, tool
//! calls with statuses, rewards and transitions.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fulgurite::config::Config;
use fulgurite::lake::Lake;
use fulgurite::rollout::{self, Options};
use fulgurite::stage::{Context, Stop};
use fulgurite::{air, credit, derive, ingest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cases::{BATCH, query, texts};
use crate::rollout::{context, lake_with_policy};
use crate::serve::clients::python;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A question, the answer that is expected, and what the teacher says.
struct Talk(&'static str, Value, Vec<Value>);

fn says(text: &str) -> Value {
    json!({ "role": "assistant", "content": text })
}

fn asks(name: &str, arguments: &Value) -> Value {
    let call = json!({ "id": "", "type": "function", "function": { "name": name, "arguments": arguments.to_string() } });
    json!({ "role": "assistant", "content": null, "tool_calls": [call] })
}

fn calculates(expression: &str) -> Value {
    asks("calculator", &json!({ "expression": expression }))
}

/// `pipelines/agents/teacher.py`, which ends with what this returns.
async fn teacher(python: &Path, folder: &Path, talks: &[Talk]) -> (Child, String) {
    let lines = talks.iter().enumerate().map(|(number, Talk(question, _, replies))| {
        let mut messages = vec![json!({ "role": "user", "content": question })];
        messages.extend(replies.iter().cloned());
        json!({ "task_id": format!("t{number}"), "messages": messages }).to_string() + "\n"
    });
    std::fs::write(folder.join("talks.jsonl"), lines.collect::<String>()).unwrap();
    let mut command = Command::new(python);
    command.arg(root().join("pipelines/agents/teacher.py")).arg("serve").arg(folder.join("talks.jsonl"));
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().unwrap();
    (child, url)
}

/// Runs a pipeline's agent once for each task, and everything up to `credit`.
async fn run(python: PathBuf, pipeline: &str, talks: &[Talk], settings: &[&str]) -> (tempfile::TempDir, Context) {
    let folder = tempfile::tempdir().unwrap();
    let lake: Lake = lake_with_policy(folder.path()).await;
    let (_teacher, url) = teacher(&python, folder.path(), talks).await;
    let tasks = talks.iter().enumerate().map(|(number, Talk(question, expected, _))| {
        json!({ "id": format!("t{number}"), "input": question, "expected": expected }).to_string() + "\n"
    });
    let path = folder.path().join("tasks.jsonl");
    std::fs::write(&path, tasks.collect::<String>()).unwrap();
    let pipeline = root().join("pipelines").join(pipeline);
    let mut config = Config::load(Some(&pipeline), &[]).unwrap();
    // The pipeline's own agent, with this Python in place of the first in PATH.
    config.agent.command[0] = python.to_str().unwrap().to_owned();
    let mut of_pipeline = vec![
        format!("serve.upstream='{url}'"),
        format!("rollout.tasks='{}'", path.display()),
        "rollout.tasks_per_iteration=0".to_owned(),
        "rollout.samples=1".to_owned(),
        "agent.concurrency=1".to_owned(),
        format!("agent.command={}", json!(config.agent.command)),
        "credit.comparison=none".to_owned(),
        "credit.singleton=keep".to_owned(),
    ];
    of_pipeline.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let config = Config { threads: 1, ..Config::load(Some(&pipeline), &of_pipeline).unwrap() };
    let context = Context { config, stop: Stop::default(), ..context(&lake, BATCH, folder.path(), &[]) };
    rollout::run(&context, &Options::default()).await.unwrap();
    let traces = format!("{}/traces/batch={BATCH}/*.otlp.jsonl.zst", lake.location());
    ingest::run(&context, &[traces]).await.unwrap();
    derive::run(&context).await.unwrap();
    air::run(&context).await.unwrap();
    credit::run(&context).await.unwrap();
    (folder, context)
}

async fn lines(context: &Context, sql: &str) -> Vec<String> {
    texts(&query(context, sql).await.unwrap(), "line")
}

const ROLLOUTS: &str =
    "select concat_ws(' ', task_id, status, failure_class, reward, calls) as line from rollouts order by task_id";

#[tokio::test(flavor = "multi_thread")]
async fn autogen_calculates() {
    let Some(python) = python() else { return };
    let talks = [
        Talk("What is 6 times 7?", json!(42), vec![calculates("6 * 7"), says("42")]),
        Talk("What is 6 plus 7?", json!(13), vec![calculates("6 plus 7"), says("It is 67.")]),
    ];
    let (_folder, context) = run(python, "calc.toml", &talks, &[]).await;
    assert_eq!(lines(&context, ROLLOUTS).await, ["t0 succeeded 1.0 2", "t1 succeeded 0.0 2"]);
    let calls = "select concat_ws(' ', r.task_id, c.step, c.agent, c.finish_reason) as line from calls c join rollouts r using (rollout_id) order by line";
    let expected = ["t0 0 solver tool_calls", "t0 1 solver stop", "t1 0 solver tool_calls", "t1 1 solver stop"];
    assert_eq!(lines(&context, calls).await, expected);
    // AutoGen tells the model what a tool raised, and its span says that it did.
    let tools = "select concat_ws(' ', r.task_id, t.name, t.status, t.agent) as line from tool_calls t join rollouts r using (rollout_id) order by line";
    assert_eq!(lines(&context, tools).await, ["t0 calculator ok solver", "t1 calculator error solver"]);
    let air = "select concat_ws(' ', r.task_id, a.rule, a.value) as line from air_rewards a join rollouts r using (rollout_id) where a.value <> 0 order by line";
    assert_eq!(lines(&context, air).await, ["t1 tool_error -0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn langgraph_writes_checks_and_rewrites() {
    let Some(python) = python() else { return };
    let right = "select capital from country where name = 'France'";
    let talks = [
        Talk("What is the capital of France?", json!(right), vec![says(right), says("right")]),
        Talk(
            "Which city is the capital of France?",
            json!(right),
            vec![says("select city from country"), says("wrong"), says(right)],
        ),
        Talk("Name the capital of France.", json!(right), vec![says("select capital from country"), says("right")]),
    ];
    let (_folder, context) = run(python, "sql.toml", &talks, &[]).await;
    assert_eq!(lines(&context, ROLLOUTS).await, ["t0 succeeded 1.0 2", "t1 succeeded 1.0 3", "t2 succeeded 0.0 2"]);
    // The checker is not trained.
    let calls = "select concat_ws(' ', r.task_id, c.step, c.agent, t.drop_reason) as line from calls c join rollouts r using (rollout_id) \
                 join transitions t using (rollout_id, call_id) order by line";
    let expected = [
        "t0 0 write",
        "t0 1 check other_agent",
        "t1 0 write",
        "t1 1 check other_agent",
        "t1 2 rewrite",
        "t2 0 write",
        "t2 1 check other_agent",
    ];
    assert_eq!(lines(&context, calls).await, expected);
    let tools = "select concat_ws(' ', r.task_id, t.name, t.status) as line from tool_calls t join rollouts r using (rollout_id) order by line";
    assert_eq!(lines(&context, tools).await, ["t0 run_sql ok", "t1 run_sql error", "t1 run_sql ok", "t2 run_sql ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_agents_searches() {
    let Some(python) = python() else { return };
    let talks = [
        Talk(
            "What is the capital of France?",
            json!("Paris"),
            vec![asks("search", &json!({ "query": "capital of France" })), says("<answer>Paris</answer>")],
        ),
        Talk("On which continent is Kenya?", json!("Africa"), vec![says("Africa")]),
        Talk("On which continent is Peru?", json!("South America"), vec![says("<answer>America</answer>")]),
    ];
    let (_folder, context) = run(python, "rag.toml", &talks, &[]).await;
    let sql = "select concat_ws(' ', task_id, status, round(reward, 3), calls) as line from rollouts order by task_id";
    // One word of two: precision 1, recall 1/2, so an F1 of 2/3, and 0.9 * 2/3 + 0.1 for the tags.
    assert_eq!(lines(&context, sql).await, ["t0 succeeded 1.0 2", "t1 succeeded 0.9 1", "t2 succeeded 0.7 1"]);
    let tools = "select concat_ws(' ', r.task_id, t.name, t.status, t.agent, t.result) as line from tool_calls t join rollouts r using (rollout_id)";
    let expected = "t0 search ok reader France is a country in Europe. Its capital is Paris. It pays with EUR.";
    assert_eq!(lines(&context, tools).await, [expected]);
    let agents = "select distinct agent as line from calls";
    assert_eq!(lines(&context, agents).await, ["reader"]);
}

/// AutoGen's agent with a tool that breaks the whole process, or fills its output. Nothing else of it differs.
const BROKEN_TOOL: &str = r#"
import os, subprocess, sys

sys.dont_write_bytecode = True

sys.path.insert(0, os.environ["AGENTS"])
import calc_autogen

def calculator(expression: str) -> str:
    """Computes an expression."""
    if expression == "crash":
        subprocess.Popen(["sleep", "600"])
        os._exit(3)
    if expression == "flood":
        sys.stderr.write("x" * 5_000_000)
    return "4"

calc_autogen.calculator = calculator
calc_autogen.main()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_breaks_its_worker_costs_one_rollout() {
    let Some(python) = python() else { return };
    let talks = [
        Talk("What is 1 plus 3?", json!(4), vec![calculates("1 + 3"), says("4")]),
        Talk("What is 2 plus 2?", json!(4), vec![calculates("crash"), says("4")]),
        Talk("What is 0 plus 4?", json!(4), vec![calculates("flood"), says("4")]),
        Talk("What is 4 plus 0?", json!(4), vec![calculates("4 + 0"), says("4")]),
    ];
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), BROKEN_TOOL).unwrap();
    let command = format!("agent.command={}", json!([python, script.path()]));
    let agents = format!("agent.environment.AGENTS='{}'", root().join("pipelines/agents").display());
    let (_folder, context) = run(python, "calc.toml", &talks, &[&command, &agents, "agent.failure_reward=-0.5"]).await;
    let expected = ["t0 succeeded 1.0 2", "t1 failed agent -0.5 1", "t2 succeeded 1.0 2", "t3 succeeded 1.0 2"];
    assert_eq!(lines(&context, ROLLOUTS).await, expected);
}
