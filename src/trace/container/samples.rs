//! Real recordings of the formats that are not OTLP, read and resolved: sequences as in `samples/EXPECTED_SUMMARY.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{ReadOptions, Sink, read_json};
use crate::trace::resolve::{Evidence, Joiner, Row, ToolStatus, resolve};
use crate::trace::span::{Kind, Origin, TaskIdSource};

/// The folder of recordings; `None`, with a note, where it is not there.
fn samples() -> Option<PathBuf> {
    let shared = std::env::var_os("FULGURITE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let samples = shared.join("samples");
    if !samples.is_dir() {
        crate::trace::skip(&format!("no recordings at {}", samples.display()));
        return None;
    }
    Some(samples)
}

/// Rows of all the files together. Every line of them must be readable.
fn rows(samples: &Path, files: &[&str]) -> Vec<Row> {
    let mut sink = Sink::default();
    for (name, file) in files.iter().zip(0..) {
        let text = std::fs::read_to_string(samples.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (line, number) in text.lines().zip(1..) {
            let origin = Origin { file, line: number, ..Origin::default() };
            if let Err(reject) = read_json(line.as_bytes(), origin, &ReadOptions::default(), &mut sink) {
                panic!("{name}:{number}: {}", reject.reason());
            }
        }
    }
    let rejects: Vec<String> = sink.rejects.iter().map(|part| part.reject.reason()).collect();
    assert!(rejects.is_empty(), "{rejects:?}");
    let mut joiner = Joiner::default();
    sink.spans.iter().for_each(|span| joiner.see(span));
    let names: Vec<String> = files.iter().map(|name| (*name).to_owned()).collect();
    let (rows, unresolved) = resolve(sink.spans, &joiner.finish(), &names);
    assert!(unresolved.is_empty(), "{unresolved:?}");
    rows
}

/// One rollout: what happened in order, then how many calls have token ids, then the rewards.
///
/// `L` LLM call, `T+` tool call, `Tx` one that failed, `Th` a handoff, `T?` unknown; `~` where only a text says so; in brackets where
/// only messages know of it.
fn sequences(rows: &[Row]) -> Vec<String> {
    let mut rollouts: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.dedup_of.is_none()) {
        rollouts.entry(&row.rollout_id).or_default().push(row);
    }
    let mut lines: Vec<(Option<i64>, String)> = rollouts
        .values()
        .map(|rows| {
            let steps: Vec<String> = rows.iter().filter_map(|row| step(row)).collect();
            let ids = rows.iter().filter(|row| row.prompt_token_ids.is_some() && row.response_token_ids.is_some()).count();
            let rewards = rows.iter().filter_map(|row| Some(format!("{}={}", row.reward_name.as_deref()?, row.reward_value?)));
            let line = format!("{} tokids={ids} {}", steps.join(" "), rewards.collect::<Vec<_>>().join(" "));
            (rows.iter().filter_map(|row| row.start_ns).min(), line.trim().to_owned())
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn step(row: &Row) -> Option<String> {
    if row.kind == Kind::Llm {
        return Some("L".to_owned());
    }
    let mark = match row.tool_status? {
        ToolStatus::Ok => "+",
        ToolStatus::Error => "x",
        ToolStatus::Control => "h",
        ToolStatus::Unknown => "?",
    };
    let doubt = if row.tool_status_evidence == Some(Evidence::ResultText) { "~" } else { "" };
    let step = format!("T{mark}{doubt}");
    Some(if row.kind_evidence.as_deref() == Some("messages") { format!("({step})") } else { step })
}

fn check(files: &[&str], expected: &[&str]) {
    let Some(samples) = samples() else { return };
    assert_eq!(sequences(&rows(&samples, files)), expected, "{files:?}");
}

const LANGSMITH: [&str; 7] = [
    "L Tx L T+ L tokids=0 correctness=1",
    "L Tx L T+ L tokids=0 correctness=1",
    "L Tx L T+ L tokids=0 correctness=1",
    "L Tx L L T+ L tokids=0",
    "L Th L Tx L T+ L tokids=0",
    "L Tx tokids=0",
    "L Tx L T+ L tokids=0",
];

#[test]
fn langsmith_runs() {
    check(&["langchain_langsmith/runs.jsonl"], &LANGSMITH);
}

#[test]
fn langsmith_feedback_beside_its_mean_counts_once() {
    check(&["langchain_langsmith/runs.jsonl", "langchain_langsmith/feedback.jsonl"], &LANGSMITH);
}

#[test]
fn langsmith_wire_stream_is_the_same_runs() {
    check(&["langchain_langsmith/wire_operations.jsonl"], &LANGSMITH);
    let Some(samples) = samples() else { return };
    let describe = |files: &[&str]| -> Vec<_> {
        let rows = rows(&samples, files);
        let runs = rows.into_iter().filter(|row| row.kind != Kind::Reward);
        runs.map(|row| (row.rollout_id, row.span_id, row.kind, row.parent_span_id, row.agent_path, row.task_id, row.tool_result))
            .collect()
    };
    assert_eq!(describe(&["langchain_langsmith/wire_operations.jsonl"]), describe(&["langchain_langsmith/runs.jsonl"]));
}

const OPENAI_AGENTS: [&str; 16] = [
    "L Tx L T+ L tokids=0",
    "L Tx L T+ L tokids=0",
    "L Th L Tx L T+ L tokids=0",
    "L Tx L T+ L tokids=0",
    "L T+ L Tx L T+ L L tokids=0",
    "L Tx L T+ L tokids=0",
    "L Tx tokids=0",
    "L Tx tokids=0",
    "L Tx L T+ L tokids=0",
    "L Tx L T+ L tokids=0",
    "L Th L Tx L T+ L tokids=0",
    "L Tx L T+ L tokids=0",
    "L T+ L Tx L T+ L L tokids=0",
    "L Tx L T+ L tokids=0",
    "L Tx tokids=0",
    "L Tx tokids=0",
];

#[test]
fn openai_agents_records_alone_and_in_batches() {
    check(&["openai_agents_native/traces.jsonl"], &OPENAI_AGENTS);
    check(&["openai_agents_native/ingest_batches.jsonl"], &OPENAI_AGENTS);
}

#[test]
fn openai_agents_group_is_the_task() {
    let Some(samples) = samples() else { return };
    let rows = rows(&samples, &["openai_agents_native/traces.jsonl"]);
    let traces: Vec<_> = rows.iter().filter(|row| row.kind == Kind::Rollout).collect();
    let stated = traces.iter().filter(|row| matches!(row.task_id_source, Some(TaskIdSource::Metadata | TaskIdSource::Group)));
    let tasks: Vec<_> = stated.filter_map(|row| row.task_id.as_deref()).collect();
    assert_eq!((traces.len(), tasks.len()), (16, 6));
    assert_eq!(tasks.iter().filter(|task| **task == "calc-001").count(), 4);
    assert_eq!(tasks.iter().filter(|task| **task == "calc-002").count(), 2);
}

#[test]
fn agent_lightning_v1_events() {
    let expected = ["L (Tx~) L (T+) L tokids=3 reward=1", "L (Tx~) L (T+) L tokids=3 reward=1"];
    check(&["agentlightning_v1/events.jsonl"], &expected);
    check(&["agentlightning_v1/events.jsonl", "agentlightning_v1/rollouts.jsonl"], &expected);
    // The other view of the same events adds nothing.
    check(&["agentlightning_v1/events.jsonl", "agentlightning_v1/events_triplet.jsonl"], &expected);
    check(&["agentlightning_v1/events_triplet.jsonl"], &["L L L tokids=3 reward=1", "L L L tokids=3 reward=1"]);
}

#[test]
fn agent_lightning_v1_rollout_records_name_task_group_and_split() {
    let Some(samples) = samples() else { return };
    let rows = rows(&samples, &["agentlightning_v1/rollouts.jsonl", "agentlightning_v1/events.jsonl"]);
    let records: Vec<_> = rows.iter().filter(|row| row.kind == Kind::Rollout).collect();
    assert_eq!(records.len(), 2);
    for record in records {
        assert_eq!(record.task_id.as_deref(), Some("calc-001"));
        assert_eq!(record.group_id.as_deref(), Some("calc-001"));
        assert_eq!(record.split.as_deref(), Some("train"));
        assert_eq!(record.rollout_status.as_deref(), Some("succeeded"));
        assert!(record.task_input.as_deref().is_some_and(|task| task.contains("20 divided by")));
    }
    let versions: Vec<_> = rows.iter().filter(|row| row.kind == Kind::Llm).map(|row| row.policy_version).collect();
    assert_eq!(versions, [Some(3); 6]);
}

#[test]
fn agent_lightning_v03_spans() {
    let rollout = "L (Tx~) L (T+) L tokids=3 correct=1 format=0.5";
    check(&["agentlightning_v03/spans_agentops.jsonl"], &[rollout; 2]);
    check(&["agentlightning_v03/spans_agentops.jsonl", "agentlightning_v03/rollouts_agentops.jsonl"], &[rollout; 2]);
    let only_rewards = "tokids=0 correct=1 format=0.5";
    check(&["agentlightning_v03/spans_otel.jsonl", "agentlightning_v03/rollouts_otel.jsonl"], &[only_rewards; 2]);
}

#[test]
fn agent_lightning_v03_triplets_join_the_calls_that_they_were_made_of() {
    let Some(samples) = samples() else { return };
    let rows = rows(&samples, &["agentlightning_v03/triplets_agentops.jsonl"]);
    let calls: Vec<_> = rows.iter().filter(|row| row.kind == Kind::Llm).collect();
    assert_eq!(calls.len(), 6);
    assert!(calls.iter().all(|call| call.prompt_token_ids.is_some() && call.response_token_ids.is_some()));
    assert!(calls.iter().all(|call| call.behaviour_logprobs.is_some() || call.sampled_logprobs.is_some()));
    assert_eq!(rows.iter().filter_map(|row| row.reward_value).collect::<Vec<_>>(), [1.0, 1.0]);
}

/// The scripted run, a record of each shape.
fn scripted_records() -> Vec<&'static str> {
    let recordings = [
        include_str!("../../../tests/it/contract/agent_lightning.jsonl"),
        include_str!("../../../tests/it/contract/agent_lightning_v1.jsonl"),
        include_str!("../../../tests/it/contract/openai_agents.jsonl"),
        include_str!("../../../tests/it/contract/langsmith.jsonl"),
        include_str!("../../../tests/it/contract/langsmith_wire.jsonl"),
        include_str!("../../../tests/it/contract/chat.jsonl"),
    ];
    recordings.iter().flat_map(|text| text.lines().take(2).chain(text.lines().last())).collect()
}

#[test]
fn a_record_cut_anywhere_is_truncated() {
    for record in scripted_records() {
        for end in (0..record.len()).step_by(3) {
            let mut sink = Sink::default();
            let outcome = read_json(&record.as_bytes()[..end], Origin::default(), &ReadOptions::default(), &mut sink);
            let code = outcome.expect_err("half a record is refused").code();
            assert_eq!((code, sink.spans.len(), sink.rejects.len()), ("truncated", 0, 0), "{}", &record[..end]);
        }
    }
}

proptest::proptest! {
    /// Nothing that a writer or a disk may do to a record makes a reader panic, or leave something behind of what it refuses.
    #[test]
    fn damaged_records_are_read_or_refused(damage in proptest::collection::vec((0usize..4000, proptest::num::u8::ANY), 0..6)) {
        for record in scripted_records() {
            let mut record = record.as_bytes().to_vec();
            for (at, byte) in &damage {
                let at = at % record.len();
                record[at] = *byte;
            }
            let mut sink = Sink::default();
            if read_json(&record, Origin::default(), &ReadOptions::default(), &mut sink).is_err() {
                proptest::prop_assert!(sink.spans.is_empty() && sink.rejects.is_empty());
            }
        }
    }
}
