//! The recordings of `../shared/samples`, against the summary that came with them.

use std::path::PathBuf;

use super::*;
use crate::trace::container::read_json;

/// Where the recordings are; `None` on a machine without them.
fn samples() -> Option<PathBuf> {
    let shared = std::env::var_os("FULGURITE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let samples = shared.join("samples");
    samples.is_dir().then_some(samples)
}

fn read_sample(path: &std::path::Path) -> Sink {
    let mut sink = Sink::default();
    for (line, record) in std::fs::read_to_string(path).unwrap().lines().enumerate() {
        let origin = Origin { line: line as u64 + 1, ..Origin::default() };
        read_json(record.as_bytes(), origin, &ReadOptions::default(), &mut sink).unwrap();
    }
    sink
}

/// Calls, tools that ran and calls with token ids of a recording, as `EXPECTED_SUMMARY.txt` counts them (`L`, `T+` and `Tx`;
/// tools in parentheses are known from messages only).
fn expected(samples: &std::path::Path, file: &str) -> (usize, usize, usize) {
    let summary = std::fs::read_to_string(samples.join("EXPECTED_SUMMARY.txt")).unwrap();
    let section = summary.lines().skip_while(|line| !line.starts_with(&format!("## {file}:"))).skip(1);
    let mut counts = (0, 0, 0);
    for line in section.take_while(|line| !line.starts_with("##")) {
        let steps = line.split("traces=").nth(1).unwrap_or_default().split("agents=").next().unwrap_or_default();
        counts.0 += steps.split_whitespace().filter(|step| *step == "L").count();
        counts.1 += steps.split_whitespace().filter(|step| matches!(*step, "T+" | "Tx")).count();
        counts.2 += line.split("tokids=").nth(1).map_or(0, |rest| rest.split_whitespace().next().unwrap().parse().unwrap());
    }
    assert_ne!(counts, (0, 0, 0), "`{file}` is not in the summary");
    counts
}

#[test]
fn recordings_have_the_calls_and_tools_of_the_summary() {
    let Some(samples) = samples() else {
        crate::trace::skip("no `../shared/samples` beside the crate, and FULGURITE_SHARED is not set");
        return;
    };
    // With each, how many calls the instrumentation recorded without their response (and the input, where logs have both).
    for (file, silent, has_input) in [
        ("agentlightning_v03/spans_agentops.jsonl", 0, true),
        ("langchain_openinference/langgraph.otlp.jsonl", 0, true),
        ("langchain_traceloop_0_40/langgraph.otlp.jsonl", 0, true),
        ("langfuse_sdk/lf.otlp.jsonl", 0, true),
        ("openai_agents_openinference/agents.otlp.jsonl", 0, true),
        // Calls of the chat model: Traceloop reads responses of the Responses API only.
        ("openai_agents_traceloop/agents.otlp.jsonl", 23, true),
        ("openai_openinference/scratch.otlp.jsonl", 0, true),
        ("openai_otelv2_latest_both/scratch.otlp.jsonl", 0, true),
        ("openai_otelv2_latest_span/scratch.otlp.jsonl", 0, true),
        ("openai_otelv2_legacy/scratch.otlp.jsonl", 12, false),
        ("openai_traceloop/scratch.otlp.jsonl", 0, true),
        ("pydantic_ai_default/agents.otlp.jsonl", 0, true),
        ("vercel_ai_sdk/agents.otlp.jsonl", 0, true),
    ] {
        let sink = read_sample(&samples.join(file));
        assert_eq!(sink.rejects.len(), 0, "{file}");
        let calls: Vec<&Span> = sink.spans.iter().filter(|span| span.kind == Kind::Llm).collect();
        let tools: Vec<&Span> = sink.spans.iter().filter(|span| span.kind == Kind::Tool).collect();
        let with_ids =
            calls.iter().filter(|call| call.llm.as_ref().unwrap().choices.iter().any(|choice| choice.token_ids.is_some()));
        assert_eq!((calls.len(), tools.len(), with_ids.count()), expected(&samples, file), "{file}");
        let mut without_response = 0;
        for call in calls {
            let llm = call.llm.as_ref().unwrap();
            assert_eq!(!llm.input.is_empty(), has_input, "{file}: `{}`", call.span_id);
            assert!(llm.model.is_some() || llm.model_requested.is_some(), "{file}: `{}` has no model", call.span_id);
            // AgentOps writes the tool calls of a response as spans of their own, but its ids with the call.
            let answered = llm.choices.iter().any(|choice| !choice.message.is_empty() || choice.token_ids.is_some());
            without_response += usize::from(!answered && call.status != Status::Error);
        }
        assert_eq!(without_response, silent, "{file}");
        for tool in tools {
            let tool = tool.tool.as_ref().unwrap();
            let name = tool.name.as_deref().unwrap_or_default();
            assert!(!name.is_empty(), "{file}: a tool has no name");
            // A handoff that takes no arguments states none.
            assert!(tool.arguments.is_some() || name.starts_with("transfer_to_"), "{file}: `{name}` has no arguments");
        }
    }
}

#[test]
fn recorded_log_events_carry_the_messages() {
    let Some(samples) = samples() else {
        crate::trace::skip("no `../shared/samples` beside the crate, and FULGURITE_SHARED is not set");
        return;
    };
    for file in ["openai_otelv2_legacy/scratch.logs.otlp.jsonl", "openai_otelv2_latest_both/scratch.logs.otlp.jsonl"] {
        let sink = read_sample(&samples.join(file));
        assert!(sink.rejects.is_empty() && !sink.spans.is_empty(), "{file}");
        for span in &sink.spans {
            let llm = span.llm.as_ref().unwrap_or_else(|| panic!("{file}: `{}` has no message", span.name));
            assert!(span.kind == Kind::Message && span.parent_span_id.is_some(), "{file}: `{}`", span.name);
            assert!(!llm.input.is_empty() || !llm.choices.is_empty(), "{file}: `{}`", span.name);
        }
    }
}
