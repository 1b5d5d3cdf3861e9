//! OpenInference attributes (Phoenix): `llm.*`, `tool.*`, `input.value` and `output.value`.

use serde_json::value::RawValue;

use super::genai;
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Role, read_messages, read_stated, take_openinference};
use crate::trace::object::{Object, list};
use crate::trace::openai::{
    fill, fill_choices, push_tools, read_parameters_json, read_request_object, read_response_object, take_logprobs,
};
use crate::trace::span::{Kind, Llm, Reward, Span, Tool};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    raw_request(attributes, llm);
    raw_response(attributes, llm);
    attributes.fill_text("llm.response.model_name", &mut llm.model);
    attributes.fill_text("llm.request.model_name", &mut llm.model_requested);
    attributes.fill_text("llm.model_name", &mut llm.model);
    for key in ["llm.provider", "llm.system"] {
        attributes.fill_text(key, &mut llm.provider);
    }
    if llm.input.is_empty() {
        let stated = take_openinference(attributes, "llm.input_messages.", Role::User);
        llm.input = stated.into_iter().map(|stated| stated.message).collect();
    }
    if llm.choices.is_empty() {
        let stated = take_openinference(attributes, "llm.output_messages.", Role::Assistant);
        llm.choices = genai::choices(stated, None);
    }
    values(attributes, llm);
    tools(attributes, llm);
    if let Some(parameters) = attributes.text("llm.invocation_parameters") {
        let known = llm.params_json.is_some();
        if read_parameters_json(parameters, llm) && !known {
            attributes.take("llm.invocation_parameters");
        }
    }
    attributes.fill_int("llm.token_count.prompt", &mut llm.input_tokens);
    attributes.fill_int("llm.token_count.completion", &mut llm.output_tokens);
    attributes.fill_int("llm.token_count.prompt_details.cache_read", &mut llm.cached_tokens);
    attributes.fill_int("llm.token_count.completion_details.reasoning", &mut llm.reasoning_tokens);
    genai::finish_reasons(attributes, llm, "llm.finish_reason");
}

/// The OpenAI instrumentor keeps the request's body: better than the attributes made of it, which then go.
fn raw_request(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let Some(body) = attributes.text("input.value").filter(|body| body.starts_with('{')) else { return };
    // LangChain's has lists of lists of its own message objects; its attributes are better.
    let request = Object::parse(body).filter(|body| body.get("model").is_some());
    if !request.is_some_and(|request| read_request_object(&request, llm)) {
        return;
    }
    attributes.take("input.value");
    attributes.drain_prefix("llm.input_messages.", |_, _| None);
}

/// `output.value` is the API's response, or the framework's view of it.
fn raw_response(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let Some(body) = attributes.text("output.value") else { return };
    // The openai-agents instrumentor writes a streamed response as a list of one.
    let only = body.starts_with('[').then(|| serde_json::from_str::<[&RawValue; 1]>(body).ok()).flatten();
    let body = only.map_or(body, |[item]| item.get());
    let Some(view) = Object::parse(body) else { return };
    if let Some(rest) = read_response_object(&view, llm) {
        if !llm.choices.is_empty() {
            attributes.drain_prefix("llm.output_messages.", |_, _| None);
        }
        attributes.replace("output.value", (rest != "{}").then(|| Value::Str(rest.into())));
        return;
    }
    let view = match view.get("generations").and_then(langchain_metadata) {
        Some(metadata) => View {
            response_id: metadata.text("id").map(Into::into),
            model: metadata.text("model_name").map(Into::into),
            finish_reason: metadata.text("finish_reason").map(Into::into),
            logprobs: metadata.text("logprobs").map(Into::into),
            thought: None,
        },
        // AutoGen's `CreateResult`, among others.
        None => View {
            finish_reason: view.text("finish_reason").map(Into::into),
            thought: view.text("thought").map(Into::into),
            ..View::default()
        },
    };
    fill(&mut llm.response_id, view.response_id);
    fill(&mut llm.model, view.model);
    let stated = take_openinference(attributes, "llm.output_messages.", Role::Assistant);
    fill_choices(&mut llm.choices, genai::choices(stated, None));
    if let Some(choice) = llm.choices.first_mut() {
        fill(&mut choice.finish_reason, view.finish_reason);
        fill(&mut choice.message.content, view.thought);
        if let Some(logprobs) = view.logprobs {
            take_logprobs(choice, &logprobs);
        }
    }
}

/// Messages that no attribute names: lists of them as the input and the output.
fn values(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    if llm.input.is_empty()
        && let Some(input) = attributes.text("input.value").filter(|input| input.starts_with("[{"))
        && let Ok(messages) = read_messages(input)
    {
        llm.input = messages;
        attributes.take("input.value");
    }
    if llm.choices.is_empty()
        && let Some(output) = attributes.text("output.value").filter(|output| output.starts_with("[{"))
        && let Ok(stated) = read_stated(output, Role::Assistant)
    {
        llm.choices = genai::choices(stated, None);
        attributes.take("output.value");
    }
}

/// What a framework's own output says that no attribute does.
#[derive(Default)]
struct View {
    response_id: Option<String>,
    model: Option<String>,
    finish_reason: Option<String>,
    logprobs: Option<String>,
    /// The text that came with tool calls.
    thought: Option<String>,
}

/// LangChain's `LLMResult`: `generations[0][0].message.kwargs.response_metadata`.
fn langchain_metadata<'a>(generations: &'a RawValue) -> Option<Object<'a>> {
    let first: &'a RawValue = list(list(generations)?.first()?)?.first().copied()?;
    Object::parse(first.get())?.object("message")?.object("kwargs")?.object("response_metadata")
}

fn tools(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let known = !llm.tools.is_empty();
    let mut tools: Vec<(u32, String)> = Vec::new();
    attributes.drain_prefix("llm.tools.", |key, value| {
        let index = key.strip_suffix(".tool.json_schema").and_then(|index| index.parse().ok());
        match (index, value) {
            (Some(index), Value::Str(schema)) => {
                tools.push((index, schema.into_owned()));
                None
            }
            (_, value) => Some(value),
        }
    });
    tools.sort_by_key(|(index, _)| *index);
    llm.tools_known |= !tools.is_empty();
    if !known {
        tools.iter().for_each(|(_, schema)| push_tools(schema, &mut llm.tools));
    }
}

pub(super) fn tool(attributes: &mut Attributes<'_>, tool: &mut Tool) {
    attributes.fill_text("tool.name", &mut tool.name);
    for key in ["tool_call.id", "tool.id"] {
        attributes.fill_text(key, &mut tool.call_id);
    }
    genai::arguments(attributes, tool, "input.value");
    genai::result(attributes, tool, "output.value");
    // AutoGen writes the arguments here, others the schema.
    if let Some(parameters) = attributes.text("tool.parameters").map(str::to_owned) {
        let is_schema = Object::parse(&parameters).is_some_and(|object| object.get("properties").is_some());
        if !is_schema {
            attributes.fill_text("tool.parameters", &mut tool.arguments);
        }
    }
}

pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span, has_scores: bool) {
    match span.kind {
        Kind::Agent => {
            for key in ["agent.name", "graph.node.id"] {
                attributes.fill_text(key, &mut span.identity.agent);
            }
            span.identity.agent.get_or_insert_with(|| span.name.clone());
        }
        // The openai-agents instrumentor: from `input.value` to `output.value`.
        Kind::Handoff => attributes.fill_text("output.value", &mut span.identity.agent),
        _ => {}
    }
    attributes.fill_text("session.id", &mut span.identity.session_id);
    if !has_scores {
        return;
    }
    for (prefix, field) in [
        ("annotations.", "annotation."),
        ("evaluations.", "evaluation."),
        ("trace.annotations.", "annotation."),
        ("trace.evaluations.", "evaluation."),
        ("session.annotations.", "annotation."),
    ] {
        scores(attributes, span, prefix, field);
    }
}

/// Scores: `<prefix>{i}.<field>{name,score,label,explanation,annotator_kind}`, the index optional.
fn scores(attributes: &mut Attributes<'_>, span: &mut Span, prefix: &str, field: &str) {
    if !attributes.has_prefix(prefix) {
        return;
    }
    let mut scores: Vec<(&str, Reward)> = Vec::new();
    let keys: Vec<String> = attributes.with_prefix(prefix).map(|(key, _)| key.to_owned()).collect();
    for key in &keys {
        let Some(at) = key[prefix.len()..].find(field) else { continue };
        let (group, name) = (&key[..prefix.len() + at], &key[prefix.len() + at + field.len()..]);
        if !matches!(name, "name" | "score" | "label" | "explanation" | "annotator_kind") {
            continue;
        }
        if scores.last().is_none_or(|(last, _)| *last != group) {
            let is_final = !matches!(prefix, "annotations." | "evaluations.");
            scores.push((group, Reward { is_final, ..Reward::default() }));
        }
        let Some((_, reward)) = scores.last_mut() else { continue };
        match name {
            "name" => reward.name = attributes.take_text(key).unwrap_or_default(),
            "score" => attributes.fill_double(key, &mut reward.value),
            "label" => attributes.fill_text(key, &mut reward.label),
            "explanation" => attributes.fill_text(key, &mut reward.comment),
            _ => {
                let kind = attributes.take_text(key).unwrap_or_default();
                reward.source = Some(if kind.eq_ignore_ascii_case("human") { "human" } else { "grader" }.to_owned());
            }
        }
    }
    span.rewards.extend(scores.into_iter().map(|(_, reward)| reward).filter(|reward| !reward.name.is_empty()));
}
