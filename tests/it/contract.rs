//! The contract of all readers: one scripted run (`contract/SCENARIO.md`), recorded in every format, gives the same calls, tool
//! calls, statuses, order and rewards. What a format cannot say is null, and is named here.

use std::path::Path;

use fulgurite::trace::container::{ReadOptions, Sink, read_json};
use fulgurite::trace::resolve::{Joiner, Row, ToolStatus, resolve};
use fulgurite::trace::span::{Kind, Origin};
use serde_json::Value;

/// A recording and what its format cannot say: columns by name, as `column of call 0` where one thing alone lacks it, and `system` for the
/// system's part of the prompts.
const RECORDINGS: &[(&[&str], &[&str])] = &[
    (&["genai.jsonl"], &[]),
    // No tools offered.
    (&["genai_events.jsonl"], &["tools", "tool_offered"]),
    (&["openinference.jsonl"], &["response_id"]),
    (&["traceloop.jsonl"], &["reward", "reward_name"]),
    (&["pydantic_ai.jsonl"], &["reward", "reward_name"]),
    (&["vercel.jsonl"], &["reward", "reward_name"]),
    (&["langfuse.jsonl"], &["reward", "reward_name", "response_id", "finish_reason"]),
    (&["agent_lightning.jsonl"], &[]),
    // Recorded at the gateway, which knows nothing of agents.
    (&["agent_lightning_v1.jsonl"], &["agent", "reward_name"]),
    // The SDK's own traces of a chat model.
    (&["openai_agents.jsonl"], &["reward", "reward_name", "model", "response_id", "tools", "tool_offered", "finish_reason"]),
    (&["langsmith.jsonl"], &[]),
    (&["langsmith_wire.jsonl"], &[]),
    (&["chat.jsonl"], &["response_id", "tokens"]),
    (&["langfuse_export.jsonl"], &["response_id", "finish_reason"]),
    (&["phoenix.jsonl"], &["response_id"]),
    (&["mlflow.jsonl"], &[]),
    // Trajectories: what a run was worth stands in another file.
    (&["atif.jsonl"], &["task_id", "reward", "reward_name", "response_id", "finish_reason"]),
    (
        &["swe_agent.jsonl"],
        &["reward", "reward_name", "model", "temperature", "response_id", "tools", "tool_offered", "finish_reason", "tokens"],
    ),
    (
        &["adp.jsonl"],
        &[
            "system",
            "agent",
            "reward_name",
            "model",
            "temperature",
            "response_id",
            "tools",
            "tool_offered",
            "finish_reason",
            "tokens",
        ],
    ),
    // One agent a trace, and the model that was asked for.
    (&["verifiers_v1.jsonl"], &["agent", "model", "response_id"]),
    (&["verifiers.jsonl"], &["agent", "reward_name", "temperature", "tools", "tool_offered"]),
    // Sessions of command-line agents: one conversation, without the system's part.
    (&["claude_code.jsonl"], &["system", "agent", "task_id", "reward", "reward_name", "temperature", "tools", "tool_offered"]),
    (
        &["codex.jsonl"],
        &[
            "system",
            "agent",
            "task_id",
            "reward",
            "reward_name",
            "temperature",
            "response_id",
            "tools",
            "tool_offered",
            "finish_reason",
        ],
    ),
    (
        &["gemini.jsonl"],
        &[
            "system",
            "agent",
            "task_id",
            "reward",
            "reward_name",
            "temperature",
            "response_id",
            "tools",
            "tool_offered",
            "finish_reason",
        ],
    ),
    // A client that is instrumented and nothing else: each call a trace of its own.
    (&["calls_only.jsonl"], &["reward", "reward_name", "response_id", "agent", "task_id"]),
];

/// What every recording must say: of the run, then of each call and each tool call in their order.
fn expected() -> Vec<Item> {
    let call = |number: usize, agent, tool, input: &str, output: &str, finish, tokens: (i64, i64)| {
        Item::new(format!("call {number}"))
            .say("agent", agent)
            .say("model", "policy-7")
            .say("temperature", "1")
            .say("response_id", &format!("resp_{}", number + 1))
            .say("tools", tool)
            .say("input", input)
            .say("output", output)
            .say("finish_reason", finish)
            .say("tokens", &format!("{}+{}", tokens.0, tokens.1))
    };
    let tool = |number: usize, name, id, arguments, asked_by: usize, status, result| {
        Item::new(format!("tool call {number}"))
            .say("tool_name", name)
            .say("tool_call_id", id)
            .say("arguments", arguments)
            .say("asked_by", &format!("call {asked_by}"))
            .say("tool_offered", "true")
            .say("tool_status", status)
            .say("result", result)
    };
    let question = "user: What is 12 / 0, 12 / 4 and 12 / 3?";
    let handed = format!("system: You divide. | {question} | asks transfer_to_math{{}} | tool: Transferred to math.");
    let failed = format!(r#"{handed} | asks divide{{"a":12,"b":0}} | tool: Error: division by zero"#);
    let both = r#"asks divide{"a":12,"b":4} divide{"a":12,"b":3}"#;
    let done = format!("{failed} | {both} | tool: 3.0 | tool: 4.0");
    let routed = format!("system: Hand over to the right agent. | {question}");
    vec![
        Item::new("run".to_owned())
            .say("order", "call tool call tool call tool tool call")
            .say("task_id", "task-7")
            .say("reward_name", "score")
            .say("reward", "1"),
        call(0, "triage", "transfer_to_math", &routed, "asks transfer_to_math{}", "tool_calls", (20, 5)),
        call(1, "math", "divide", &handed, r#"asks divide{"a":12,"b":0}"#, "tool_calls", (40, 10)),
        call(2, "math", "divide", &failed, both, "tool_calls", (60, 20)),
        call(3, "math", "divide", &done, "assistant: undefined, 3 and 4", "stop", (90, 6)),
        tool(0, "transfer_to_math", "call_h", "{}", 0, "control", "Transferred to math."),
        tool(1, "divide", "call_1", r#"{"a":12,"b":0}"#, 1, "error", "Error: division by zero"),
        tool(2, "divide", "call_2", r#"{"a":12,"b":4}"#, 2, "ok", "3.0"),
        tool(3, "divide", "call_3", r#"{"a":12,"b":3}"#, 2, "ok", "4.0"),
    ]
}

/// One thing of the run, and what is said of it.
#[derive(Debug, PartialEq)]
struct Item {
    what: String,
    said: Vec<(&'static str, Option<String>)>,
}

impl Item {
    fn new(what: String) -> Self {
        Self { what, said: Vec::new() }
    }

    fn say(self, column: &'static str, value: &str) -> Self {
        self.note(column, Some(value.to_owned()))
    }

    fn note(mut self, column: &'static str, value: Option<String>) -> Self {
        self.said.push((column, value));
        self
    }
}

fn read(folder: &Path, files: &[&str]) -> Vec<Row> {
    let mut sink = Sink::default();
    for (name, file) in files.iter().zip(0..) {
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (line, number) in text.lines().zip(1..) {
            let origin = Origin { file, line: number, ..Origin::default() };
            read_json(line.as_bytes(), origin, &ReadOptions::default(), &mut sink)
                .unwrap_or_else(|reject| panic!("{name}: {reject}"));
        }
    }
    assert!(sink.rejects.is_empty(), "{files:?}: {:?}", sink.rejects);
    let mut joiner = Joiner::default();
    sink.spans.iter().for_each(|span| joiner.see(span));
    let names: Vec<String> = files.iter().map(|name| (*name).to_owned()).collect();
    let (rows, unresolved) = resolve(sink.spans, &joiner.finish(), &names);
    assert!(unresolved.is_empty(), "{files:?}: {unresolved:?}");
    rows
}

fn found(rows: &[Row]) -> Vec<Item> {
    assert!(rows.iter().all(|row| row.rollout_id == rows[0].rollout_id), "the run must be one rollout");
    let kept = || rows.iter().filter(|row| row.dedup_of.is_none());
    let calls: Vec<&Row> = kept().filter(|row| row.kind == Kind::Llm).collect();
    let tools: Vec<&Row> = kept().filter(|row| matches!(row.kind, Kind::Tool | Kind::Handoff)).collect();
    let order: Vec<&str> = kept()
        .filter_map(|row| match row.kind {
            Kind::Llm => Some("call"),
            Kind::Tool | Kind::Handoff => Some("tool"),
            _ => None,
        })
        .collect();
    // A hash of the prompt names no task that anybody stated.
    let stated = rows[0].task_id_source.is_some_and(|source| source.as_str() != "prompt");
    let rewards: Vec<&Row> = kept().filter(|row| row.reward_value.is_some()).collect();
    assert!(rewards.len() < 2, "more than one reward: {rewards:?}");
    let reward = rewards.first();
    // What readers call a reward that has no name.
    let reward_name = reward.and_then(|row| row.reward_name.clone()).filter(|name| name != "reward");
    let run = Item::new("run".to_owned())
        .say("order", &order.join(" "))
        .note("task_id", rows[0].task_id.clone().filter(|_| stated))
        .note("reward_name", reward_name)
        .note("reward", reward.and_then(|row| Some(row.reward_value?.to_string())));

    let mut items = vec![run];
    items.extend(calls.iter().enumerate().map(|(number, row)| {
        let tokens = row.input_tokens.zip(row.output_tokens);
        Item::new(format!("call {number}"))
            .note("agent", row.agent.clone())
            .note("model", row.model.clone())
            .note("temperature", row.temperature.map(|temperature| temperature.to_string()))
            .note("response_id", row.response_id.clone())
            .note("tools", row.tools.as_deref().map(names))
            .note("input", row.input_messages.as_deref().map(messages))
            .note("output", row.output_messages.as_deref().map(messages))
            .note("finish_reason", row.finish_reason.clone())
            .note("tokens", tokens.map(|(input, output)| format!("{input}+{output}")))
    }));
    items.extend(tools.iter().enumerate().map(|(number, row)| {
        let asker = row.asked_by.as_ref().and_then(|id| calls.iter().position(|call| call.span_id == *id));
        Item::new(format!("tool call {number}"))
            .note("tool_name", row.tool_name.clone())
            .note("tool_call_id", row.tool_call_id.clone())
            .note("arguments", row.tool_arguments.as_deref().map(compact))
            .note("asked_by", asker.map(|call| format!("call {call}")))
            .note("tool_offered", row.tool_offered.map(|offered| offered.to_string()))
            .note("tool_status", row.tool_status.map(|status: ToolStatus| status.as_str().to_owned()))
            .note("result", row.tool_result.clone())
    }));
    items
}

fn names(tools: &str) -> String {
    let tools: Vec<Value> = serde_json::from_str(tools).expect("a list of tools");
    tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>().join(" ")
}

fn compact(json: &str) -> String {
    serde_json::from_str::<Value>(json).map_or_else(|_| json.to_owned(), |value| value.to_string())
}

fn messages(json: &str) -> String {
    let messages: Vec<Value> = serde_json::from_str(json).expect("a list of messages");
    let say = |message: &Value| match message["tool_calls"].as_array() {
        Some(calls) => {
            let call = |call: &Value| {
                let function = &call["function"];
                format!(
                    " {}{}",
                    function["name"].as_str().expect("a name"),
                    compact(function["arguments"].as_str().expect("arguments"))
                )
            };
            format!("asks{}", calls.iter().map(call).collect::<String>())
        }
        None => format!("{}: {}", message["role"].as_str().expect("a role"), message["content"].as_str().unwrap_or("nothing")),
    };
    messages.iter().map(say).collect::<Vec<_>>().join(" | ")
}

#[test]
fn every_format_records_the_same_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/contract");
    let mut wrong = Vec::new();
    for (files, unsaid) in RECORDINGS {
        let found = found(&read(&folder, files));
        let expected = expected();
        if found.len() != expected.len() {
            wrong.push(format!("{}: {:?}", files[0], found[0]));
            continue;
        }
        for (item, expected) in found.iter().zip(&expected) {
            for ((column, found), (_, expected)) in item.said.iter().zip(&expected.said) {
                let cannot = unsaid.contains(column) || unsaid.contains(&format!("{column} of {}", item.what).as_str());
                let expected = expected.as_deref().filter(|_| !cannot);
                let expected = match expected.and_then(|expected| expected.strip_prefix("system: ")?.split_once(" | ")) {
                    Some((_, rest)) if unsaid.contains(&"system") => Some(rest),
                    _ => expected,
                };
                if found.as_deref() != expected {
                    wrong.push(format!("{}: {column} of {}: {found:?}, not {expected:?}", files[0], item.what));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
