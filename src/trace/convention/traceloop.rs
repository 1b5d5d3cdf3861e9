//! Traceloop (OpenLLMetry): indexed `gen_ai.prompt.N.*` before version 0.6, and its own `traceloop.*` ever since.

use super::genai;
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Role, take_traceloop};
use crate::trace::openai::fill_choices;
use crate::trace::span::{Kind, Llm, Span, Tool, ToolOffer};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    indexed(attributes, llm);
    functions(attributes, llm, "llm.request.functions.");
    for key in ["llm.is_streaming", "llm.streaming"] {
        attributes.fill_bool(key, &mut llm.stream);
    }
}

/// The messages that Traceloop and AgentOps index.
pub(super) fn indexed(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    if llm.input.is_empty() {
        let stated = take_traceloop(attributes, "gen_ai.prompt.", Role::User);
        llm.input = stated.into_iter().map(|stated| stated.message).collect();
    }
    let stated = take_traceloop(attributes, "gen_ai.completion.", Role::Assistant);
    if !stated.is_empty() {
        let count = attributes.get("gen_ai.request.choice.count").and_then(|value| value.as_int());
        fill_choices(&mut llm.choices, genai::choices(stated, count));
    }
}

/// Tools offered: `<prefix>{i}.{name,description,parameters}`.
pub(super) fn functions(attributes: &mut Attributes<'_>, llm: &mut Llm, prefix: &str) {
    let mut tools: Vec<(u32, ToolOffer)> = Vec::new();
    attributes.drain_prefix(prefix, |key, value| {
        let Some((index, field)) = key.split_once('.').and_then(|(index, field)| Some((index.parse().ok()?, field))) else {
            return Some(value);
        };
        if tools.last().is_none_or(|(last, _)| *last != index) {
            tools.push((index, ToolOffer::default()));
        }
        let (_, tool) = tools.last_mut()?;
        match field {
            "name" => tool.name = value.into_text().unwrap_or_default(),
            "description" => tool.description = value.into_text(),
            "parameters" => tool.parameters = value.into_text(),
            _ => return Some(value),
        }
        None
    });
    if tools.is_empty() {
        return;
    }
    llm.tools_known = true;
    if llm.tools.is_empty() {
        tools.sort_by_key(|(index, _)| *index);
        llm.tools = tools.into_iter().map(|(_, tool)| tool).collect();
    }
}

pub(super) fn tool(attributes: &mut Attributes<'_>, tool: &mut Tool) {
    attributes.fill_text("traceloop.entity.name", &mut tool.name);
    genai::arguments(attributes, tool, "traceloop.entity.input");
    genai::result(attributes, tool, "traceloop.entity.output");
}

pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span) {
    match span.kind {
        Kind::Agent => {
            attributes.fill_text("traceloop.entity.name", &mut span.identity.agent);
            span.identity.agent.get_or_insert_with(|| span.name.trim_end_matches(".agent").to_owned());
        }
        // The path of a call begins with the node of the graph that made it.
        Kind::Llm if span.identity.agent_hint.is_none() => {
            if let Some(Value::Str(path)) = attributes.get("traceloop.entity.path") {
                let node = path.split('.').next().filter(|node| !node.is_empty());
                span.identity.agent_hint = node.map(str::to_owned);
            }
        }
        _ => {}
    }
}
