//! Pydantic AI and Logfire: what they add to the GenAI names, and the names of their first version.

use serde_json::value::RawValue;

use super::genai;
use crate::trace::attributes::Attributes;
use crate::trace::message::{Role, read_stated};
use crate::trace::object::Object;
use crate::trace::openai::{fill_choices, push_tools};
use crate::trace::span::{Kind, Llm, Span, Tool};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    first_version(attributes, llm);
    if llm.tools.is_empty()
        && !attributes.contains("gen_ai.tool.definitions")
        && let Some(parameters) = attributes.text("model_request_parameters").and_then(Object::parse)
        && let Some(tools) = parameters.get("function_tools")
    {
        push_tools(tools.get(), &mut llm.tools);
        llm.tools_known = true;
    }
}

/// Version 1 wrote the per-message events of GenAI as a JSON list in the attribute `events`.
fn first_version(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let Some(events) = attributes.get("events").and_then(|value| value.as_text()) else { return };
    let Ok(events) = serde_json::from_str::<Vec<&RawValue>>(&events) else { return };
    let (mut input, mut output) = (Vec::new(), Vec::new());
    for event in events {
        let Some(object) = Object::parse(event.get()) else { return };
        let choice = object.get("message").filter(|_| object.text("event.name").as_deref() == Some("gen_ai.choice"));
        let (source, role) = match choice {
            Some(message) => (message, Role::Assistant),
            None => (event, Role::User),
        };
        let Ok(mut stated) = read_stated(source.get(), role) else { return };
        match choice {
            Some(_) => {
                if let Some(first) = stated.first_mut() {
                    first.finish_reason = object.text("finish_reason").map(Into::into);
                }
                output.append(&mut stated);
            }
            None => input.extend(stated.into_iter().map(|stated| stated.message)),
        }
    }
    if input.is_empty() && output.is_empty() {
        return;
    }
    if llm.input.is_empty() {
        llm.input = input;
    }
    fill_choices(&mut llm.choices, genai::choices(output, None));
    attributes.take("events");
}

pub(super) fn tool(attributes: &mut Attributes<'_>, tool: &mut Tool) {
    tool.retry_marker |= attributes.contains("pydantic_ai.tool.retry.cause");
    genai::arguments(attributes, tool, "tool_arguments");
    genai::result(attributes, tool, "tool_response");
}

pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span) {
    if span.kind == Kind::Agent {
        attributes.fill_text("gen_ai.agent.name", &mut span.identity.agent);
        attributes.fill_text("agent_name", &mut span.identity.agent);
    }
}
