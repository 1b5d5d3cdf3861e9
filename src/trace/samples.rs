//! Real recordings: what the readers and resolving make of them. The expected sequences were found by another implementation
//! (`samples/EXPECTED_SUMMARY.txt`); where that one is wrong, `CORRECTIONS` says so and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::container::{ReadOptions, Sink, read_json, read_proto};
use super::detect::{Layout, ZSTD_MAGIC, layout};
use super::resolve::{Evidence, Joiner, Row, ToolStatus, locator, resolve, rollout_of};
use super::span::{Kind, Origin};
use super::split::{Piece, Scanner};

/// Every recording in a format that the readers know, with the files that belong together.
const RECORDINGS: &[&[&str]] = &[
    &["agentlightning_v03/spans_agentops.jsonl", "agentlightning_v03/rollouts_agentops.jsonl"],
    &["agentlightning_v03/spans_otel.jsonl", "agentlightning_v03/rollouts_otel.jsonl"],
    &["agentlightning_v1/events.jsonl", "agentlightning_v1/rollouts.jsonl"],
    &["atif/hello-world.trajectory.json"],
    &["atif/hello-world.trajectory.no_function_calling.json"],
    &["atif/hello-world-context-summarization.trajectory.json"],
    &["atif/hello-world-context-summarization.trajectory.summarization-1-summary.json"],
    &["atif/hello-world-invalid-json.trajectory.json"],
    &["autogen_native/agents.otlp.jsonl"],
    &["autogen_native_root/agents.otlp.jsonl"],
    &["autogen_openinference/agents.otlp.jsonl"],
    &["claude_code_jsonl/representative_messages.jsonl"],
    &["claude_code_jsonl/sample_session.jsonl"],
    &["claude_code_jsonl/session_b.jsonl"],
    &["codex_jsonl/codex-codexNewerFormat.jsonl"],
    &["codex_jsonl/codex-codexOlderFormat.jsonl"],
    &["langchain_langsmith/runs.jsonl", "langchain_langsmith/feedback.jsonl"],
    &["langchain_langsmith/wire_operations.jsonl"],
    &["langchain_openinference/langgraph.otlp.jsonl"],
    &["langchain_traceloop_0_40/langgraph.otlp.jsonl"],
    &["langfuse_export/agno-2025-06-11.json"],
    &["langfuse_export/autogen-2025-06-06.json"],
    &["langfuse_export/google-vertex-tools-langchain-2025-09-19.json"],
    &["langfuse_export/langgraph-2025-08-22.json"],
    &["langfuse_export/microsoft-agent-2025-10-14.json"],
    &["langfuse_export/openai-agents-2025-09-30.json"],
    &["langfuse_export/openai-assistants-2024-05-29.json"],
    &["langfuse_sdk/lf.otlp.jsonl"],
    &["mlflow/traces.jsonl"],
    &["openai_agents_native/ingest_batches.jsonl"],
    &["openai_agents_native/traces.jsonl"],
    &["openai_agents_openinference/agents.otlp.jsonl"],
    &["openai_agents_traceloop/agents.otlp.jsonl"],
    &["openai_openinference/scratch.otlp.jsonl"],
    &["openai_otelv2_latest_both/scratch.otlp.jsonl", "openai_otelv2_latest_both/scratch.logs.otlp.jsonl"],
    &["openai_otelv2_latest_span/scratch.otlp.jsonl", "openai_otelv2_latest_span/scratch.logs.otlp.jsonl"],
    &["openai_otelv2_legacy/scratch.otlp.jsonl", "openai_otelv2_legacy/scratch.logs.otlp.jsonl"],
    &["openai_traceloop/scratch.otlp.jsonl"],
    &["otel_python_console/spans.console.json"],
    &["otel_python_console/spans.to_json.jsonl"],
    &["otlp_encodings/collector_json.jsonl"],
    &["otlp_encodings/collector_json.jsonl.gz"],
    &["otlp_encodings/collector_json.jsonl.zst"],
    &["otlp_encodings/collector_json_zstd.bin"],
    &["otlp_encodings/collector_proto.bin"],
    &["otlp_encodings/collector_proto_zstd.bin"],
    &["otlp_encodings/js_numeric_ints.jsonl"],
    &["otlp_encodings/legacy_instrumentationLibrarySpans.jsonl"],
    &["otlp_encodings/protojson_b64ids_enum_names.jsonl"],
    &["otlp_encodings/protojson_snake_case.jsonl"],
    &["otlp_encodings/resourcespans_per_line.jsonl"],
    &["otlp_encodings/single_request.pb"],
    &["otlp_encodings/single_request_pretty.json"],
    &["other_cli_sessions/gemini-geminiSample.jsonl"],
    &["pydantic_ai_default/agents.otlp.jsonl"],
    &["swe_agent_traj/function_calling_simple.traj"],
    &["swe_agent_traj/marshmallow-code__marshmallow-1867.traj"],
    &["vercel_ai_sdk/agents.otlp.jsonl"],
];

/// Lines of the summary that are wrong: the recording, what it says, what is true.
///
/// * Agent Lightning 0.3: the responses' tool calls are child spans, and the next prompt has their results: three calls without tools
///   would be another run.
/// * LangSmith: the feedback in its own file, and the wire stream of the same runs, were not read for the summary.
/// * A client without a root span: its three calls have unique tool-call ids, so that they are one run. Their tools' fates follow.
/// * MLflow: the assessments were not read for the summary.
/// * Traceloop's Responses API writes one id into the response and another into the next prompt, but the only request and the only
///   result between two calls belong together.
/// * A single request of an exporter: the run was cut after a call that asked for a tool, whose fate is unknown.
const CORRECTIONS: &[(&str, &[&str], &[&str])] = &[
    (
        "agentlightning_v03/spans_agentops.jsonl",
        &["L L L tokids=3 reward=[1.0]"; 2],
        &["L (Tx~) L (T+) L tokids=3 reward=[1.0]"; 2],
    ),
    (
        "openai_openinference/scratch.otlp.jsonl",
        &["L (T?) tokids=1", "L (T?) tokids=1", "L tokids=1"],
        &["L (Tx~) L (T+) L tokids=3"],
    ),
    ("langchain_langsmith/runs.jsonl", &["L Tx L T+ L tokids=0"; 3], &["L Tx L T+ L tokids=0 reward=[1.0]"; 3]),
    ("langchain_langsmith/wire_operations.jsonl", &[], WIRE),
    ("mlflow/traces.jsonl", &["L Tx L T+ L tokids=3"; 2], &["L Tx L T+ L tokids=3 reward=[1.0]"; 2]),
    ("openai_otelv2_latest_both/scratch.otlp.jsonl", THREE_TRACES, ONE_RUN),
    ("openai_otelv2_latest_span/scratch.otlp.jsonl", THREE_TRACES, ONE_RUN),
    ("openai_otelv2_legacy/scratch.otlp.jsonl", THREE_TRACES, ONE_RUN),
    ("openai_traceloop/scratch.otlp.jsonl", THREE_TRACES, ONE_RUN),
    ("openai_traceloop/scratch.otlp.jsonl", &["L (T?) L (T?) L tokids=0"], ONE_RUN),
    ("otlp_encodings/single_request.pb", &["L Tx L tokids=0"], &["L Tx L (T?) tokids=0"]),
    ("otlp_encodings/single_request_pretty.json", &["L Tx L tokids=0"], &["L Tx L (T?) tokids=0"]),
    // Formats that the summary does not have: counted in the files by hand.
    ("atif/hello-world.trajectory.json", &[], &["L T+ L (T?) tokids=0"]),
    ("atif/hello-world.trajectory.no_function_calling.json", &[], &["L L tokids=0"]),
    ("atif/hello-world-context-summarization.trajectory.json", &[], &["L T+ L T+ L T+ L T+ L T+ L T+ L T+ tokids=7"]),
    ("atif/hello-world-context-summarization.trajectory.summarization-1-summary.json", &[], &["L tokids=1"]),
    ("atif/hello-world-invalid-json.trajectory.json", &[], &["L L T+ L T+ L T+ tokids=0"]),
    ("claude_code_jsonl/representative_messages.jsonl", &[], &["L L T+ L L T+ L tokids=0"]),
    ("claude_code_jsonl/sample_session.jsonl", &[], &["L T+ L T+ L tokids=0"]),
    ("claude_code_jsonl/session_b.jsonl", &[], &["L tokids=0"]),
    ("codex_jsonl/codex-codexNewerFormat.jsonl", &[], &["L T+ tokids=0"]),
    ("codex_jsonl/codex-codexOlderFormat.jsonl", &[], &["L T+ tokids=0"]),
    ("langfuse_export/agno-2025-06-11.json", &[], &["L T+ L tokids=0"]),
    ("langfuse_export/autogen-2025-06-06.json", &[], &["L tokids=0"]),
    ("langfuse_export/google-vertex-tools-langchain-2025-09-19.json", &[], &["L tokids=0"]),
    ("langfuse_export/langgraph-2025-08-22.json", &[], &["L T+ L tokids=0 reward=[0.0, 0.1]"]),
    ("langfuse_export/microsoft-agent-2025-10-14.json", &[], &["L T+ L tokids=0 reward=[1.0, 0.0]"]),
    ("langfuse_export/openai-agents-2025-09-30.json", &[], &["L T+ L tokids=0 reward=[0.0, 0.8]"]),
    ("langfuse_export/openai-assistants-2024-05-29.json", &[], &["L tokids=0"]),
    ("other_cli_sessions/gemini-geminiSample.jsonl", &[], &["L T+ L L T+ L T+ tokids=0"]),
    ("swe_agent_traj/function_calling_simple.traj", &[], &["L T+ L T+ L T+ L T+ L T+ tokids=0"]),
    (
        "swe_agent_traj/marshmallow-code__marshmallow-1867.traj",
        &[],
        &["L T+ L T+ L T+ L T+ L T+ L T+ L T+ L T+ L T+ L T+ L T+ tokids=0"],
    ),
];

const WIRE: &[&str] = &[
    "L T+ L Tx L T+ L tokids=0",
    "L Tx L L T+ L tokids=0",
    "L Tx L T+ L tokids=0",
    "L Tx L T+ L tokids=0 reward=[1.0]",
    "L Tx L T+ L tokids=0 reward=[1.0]",
    "L Tx L T+ L tokids=0 reward=[1.0]",
    "L Tx tokids=0",
];
const THREE_TRACES: &[&str] = &["L (T?) tokids=0", "L (T?) tokids=0", "L tokids=0"];
const ONE_RUN: &[&str] = &["L (Tx~) L (T+) L tokids=0"];

fn shared() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("FULGURITE_SHARED").map_or(default, PathBuf::from);
    if shared.join("samples/EXPECTED_SUMMARY.txt").is_file() {
        return Some(shared);
    }
    super::skip(&format!("no recordings in {} (set FULGURITE_SHARED)", shared.display()));
    None
}

fn read_file(path: &Path, file: u32, sink: &mut Sink) {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bytes = decompressed(bytes);
    let options = ReadOptions::default();
    let mut message = |bytes: &[u8], line: u64, json: bool| {
        let origin = Origin { file, line, ..Origin::default() };
        let read = if json { read_json(bytes, origin, &options, sink) } else { read_proto(bytes, origin, &options, sink) };
        if let Err(reject) = read {
            sink.reject(origin, reject, bytes);
        }
    };
    match layout(&bytes) {
        Layout::Message => message(&bytes, 1, false),
        Layout::Framed => {
            let (mut rest, mut line) = (&bytes[..], 1);
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
                let frame = decompressed(frame.to_vec());
                message(&frame, line, frame.starts_with(b"{"));
                (rest, line) = (tail, line + 1);
            }
        }
        Layout::Empty => {}
        Layout::JsonLines | Layout::JsonDocument => {
            let (pieces, _) = Scanner::default().scan(&bytes);
            for piece in pieces {
                let (Piece::Record { range, line } | Piece::Garbage { range, line }) = piece;
                message(&bytes[range], line + 1, true);
            }
        }
        Layout::Unknown => panic!("{}: no trace file", path.display()),
    }
}

fn decompressed(bytes: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut out).expect("a whole gzip file");
        return out;
    }
    if bytes.starts_with(&ZSTD_MAGIC) {
        return zstd::decode_all(&bytes[..]).expect("a whole zstd frame");
    }
    bytes
}

/// Rows of the recording, by rollout, in the order of the rollouts' starts.
fn rollouts(samples: &Path, files: &[&str]) -> Vec<Vec<Row>> {
    let mut sink = Sink::default();
    for (name, file) in files.iter().zip(0..) {
        read_file(&samples.join(name), file, &mut sink);
    }
    assert!(
        sink.rejects.is_empty(),
        "{files:?}: {:#?}",
        sink.rejects.iter().map(|reject| reject.reject.reason()).collect::<Vec<_>>()
    );
    let mut joiner = Joiner::default();
    sink.spans.iter().for_each(|span| joiner.see(span));
    let names: Vec<String> = files.iter().map(|name| (*name).to_owned()).collect();
    let components = joiner.finish();
    for span in &sink.spans {
        let apart = rollout_of(&locator(span), &components, &names);
        assert_eq!(apart, rollout_of(span, &components, &names), "{files:?}: the locator of {span:?} leaves something out");
    }
    let (rows, unresolved) = resolve(sink.spans, &components, &names);
    assert!(unresolved.is_empty(), "{files:?}: {unresolved:?}");
    let mut rollouts: BTreeMap<(i64, String), Vec<Row>> = BTreeMap::new();
    for rows in rows.chunk_by(|a, b| a.rollout_id == b.rollout_id) {
        let start = rows.iter().filter_map(|row| row.start_ns).min().unwrap_or(i64::MAX);
        rollouts.insert((start, rows[0].rollout_id.clone()), rows.to_vec());
    }
    rollouts.into_values().collect()
}

fn counts(row: &&Row) -> bool {
    row.dedup_of.is_none()
}

/// In the words of the summary: a control-flow tool call is no failure there, and a handoff span no tool call.
fn sequence(rows: &[Row]) -> String {
    let words = rows.iter().filter(counts).filter_map(|row| match row.kind {
        Kind::Llm => Some("L".to_owned()),
        Kind::Tool => {
            let fate = match (row.tool_status?, row.tool_status_evidence?) {
                (ToolStatus::Ok | ToolStatus::Control, _) => "T+",
                (ToolStatus::Error, Evidence::ResultText) => "Tx~",
                (ToolStatus::Error, _) => "Tx",
                (ToolStatus::Unknown, _) => "T?",
            };
            Some(if row.asked_by_source == Some("message") { format!("({fate})") } else { fate.to_owned() })
        }
        _ => None,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Sequence, calls with token ids and primary rewards of every rollout with an LLM call.
fn summary(rollouts: &[Vec<Row>]) -> Vec<String> {
    let with_calls = rollouts.iter().filter(|rows| rows.iter().any(|row| row.kind == Kind::Llm));
    let line = |rows: &Vec<Row>| {
        let ids = rows.iter().filter(counts).filter(|row| row.response_token_ids.is_some()).count();
        let rewards: Vec<f64> = rows
            .iter()
            .filter(counts)
            .filter(|row| row.reward_primary == Some(true))
            .filter_map(|row| row.reward_value)
            .collect();
        let mut line = format!("{} tokids={ids}", sequence(rows));
        if !rewards.is_empty() {
            write!(line, " reward={rewards:?}").unwrap();
        }
        line
    };
    let mut lines: Vec<String> = with_calls.map(line).collect();
    lines.sort();
    lines
}

/// What the summary says of each file.
fn expected(samples: &Path) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(samples.join("EXPECTED_SUMMARY.txt")).expect("the summary");
    let mut files = BTreeMap::new();
    let mut lines: &mut Vec<String> = &mut Vec::new();
    for line in text.lines() {
        if let Some(file) = line.strip_prefix("## ") {
            let name = file.split(':').next().unwrap_or_default();
            lines = files.entry(name.to_owned()).or_default();
        } else if let Some((_, rollout)) = line.split_once("traces=") {
            let (_, rollout) = rollout.split_once(' ').expect("a sequence");
            let (sequence, rest) = rollout.split_once("agents=").expect("agents");
            let (_, rest) = rest.split_once(']').expect("a list");
            lines.push(format!("{} {}", sequence.trim(), rest.trim()));
        }
    }
    for lines in files.values_mut() {
        lines.sort();
    }
    files
}

#[test]
fn recordings_have_the_expected_sequences() {
    let Some(shared) = shared() else { return };
    let samples = shared.join("samples");
    let mut expected = expected(&samples);
    for (file, wrong, right) in CORRECTIONS {
        let lines = expected.entry((*file).to_owned()).or_default();
        for line in *wrong {
            let position = lines.iter().position(|known| known == line).unwrap_or_else(|| panic!("{file}: no line {line}"));
            lines.remove(position);
        }
        lines.extend(right.iter().map(|line| (*line).to_owned()));
        lines.sort();
    }
    let mut wrong = String::new();
    for files in RECORDINGS {
        let found = summary(&rollouts(&samples, files));
        let expected = expected.get(files[0]).cloned().unwrap_or_default();
        if found != expected {
            write!(wrong, "{}\n  found    {found:#?}\n  expected {expected:#?}\n", files[0]).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A recording as a person reads it: one line a row.
fn story(rollouts: &[Vec<Row>]) -> String {
    let mut story = String::new();
    for (number, rows) in rollouts.iter().enumerate() {
        let task = rows[0].task_id.as_deref().unwrap_or("-");
        let source = rows[0].task_id_source.map_or("-", super::span::TaskIdSource::as_str);
        writeln!(story, "rollout {number} by {}, task {source} {task}", rows[0].rollout_id_source).unwrap();
        let places: BTreeMap<&str, i64> = rows.iter().map(|row| (row.span_id.as_str(), row.seq)).collect();
        for row in rows {
            let kind = format!("{}{}", "  ".repeat(row.depth.clamp(0, 8) as usize), row.kind);
            write!(story, "{:>4} {kind}", row.seq).unwrap();
            let mut say = |label: &str, value: Option<&str>| {
                if let Some(value) = value {
                    write!(story, " {label}{}", value.replace('\n', "\\n").chars().take(48).collect::<String>()).unwrap();
                }
            };
            let place =
                |id: &Option<String>| id.as_deref().map(|id| places.get(id).map_or_else(|| format!("?{id}"), i64::to_string));
            let tool = matches!(row.kind, Kind::Tool | Kind::Handoff | Kind::ToolRequest);
            say("", row.tool_name.as_deref().or(row.name.as_deref()));
            say("agent=", row.agent_path.as_deref());
            say("dup=", place(&row.dedup_of).as_deref());
            if tool {
                say("", row.tool_status.map(ToolStatus::as_str));
                say("by ", row.tool_status_evidence.map(Evidence::as_str));
                say("asked=", place(&row.asked_by).as_deref());
                say("by ", row.asked_by_source);
                say("args=", row.tool_arguments.as_deref());
                say("result=", row.tool_result.as_deref());
                say("offered=", row.tool_offered.map(|offered| if offered { "yes" } else { "no" }));
                say("valid=", row.arguments_valid.map(|valid| if valid { "yes" } else { "no" }));
            } else {
                say("", (row.status != super::span::Status::Unset).then(|| row.status.as_str()));
            }
            say("error=", row.error_type.as_deref());
            if row.kind == Kind::Llm {
                say("model=", row.model.as_deref().or(row.model_requested.as_deref()));
                say("finish=", row.finish_reason.as_deref());
                let messages = |json: &Option<String>| json.as_deref().map(|json| json.matches("\"role\":").count().to_string());
                say("in=", messages(&row.input_messages).as_deref());
                say("out=", messages(&row.output_messages).as_deref());
                say("tools=", row.tools.as_deref().map(|json| json.matches("\"name\":").count().to_string()).as_deref());
                say(
                    "tokens=",
                    row.input_tokens.zip(row.output_tokens).map(|(input, output)| format!("{input}+{output}")).as_deref(),
                );
                say("ids=", row.response_token_ids.as_ref().map(|ids| ids.len().to_string()).as_deref());
                say("logprobs=", row.behaviour_logprobs.as_ref().map(|logprobs| logprobs.len().to_string()).as_deref());
            }
            say("reward ", row.reward_name.as_deref());
            say("= ", row.reward_value.map(|value| value.to_string()).as_deref());
            say("label=", row.reward_label.as_deref());
            say("on ", place(&row.reward_target).as_deref());
            say("", row.reward_final.filter(|whole| *whole).map(|_| "final"));
            say("", row.rollout_status.as_deref());
            story.push('\n');
        }
    }
    story
}

#[test]
fn recordings_keep_their_stories() {
    let Some(shared) = shared() else { return };
    let samples = shared.join("samples");
    let encodings = |file: &str| file.starts_with("otlp_encodings/") && !file.contains("single_request");
    let one_encoding = story(&rollouts(&samples, &["otlp_encodings/collector_json.jsonl"]));
    for files in RECORDINGS {
        let story = story(&rollouts(&samples, files));
        if encodings(files[0]) {
            assert_eq!(story, one_encoding, "{}", files[0]);
        } else {
            insta::assert_snapshot!(files[0].replace(['/', '.'], "_"), story);
        }
    }
    insta::assert_snapshot!("otlp_encodings", one_encoding);
}
