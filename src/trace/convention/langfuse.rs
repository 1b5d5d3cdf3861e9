//! Langfuse's SDK as OpenTelemetry spans: `langfuse.observation.*` and `langfuse.trace.*`.

use super::genai;
use crate::trace::attributes::Attributes;
use crate::trace::message::{Role, read_messages, read_stated};
use crate::trace::object::Object;
use crate::trace::openai::{fill_choices, push_tools, read_parameters_json, read_usage};
use crate::trace::span::{Kind, Llm, Span, Status, Tool};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    attributes.fill_text("langfuse.observation.model.name", &mut llm.model);
    if let Some(parameters) = attributes.text("langfuse.observation.model.parameters") {
        let known = llm.params_json.is_some();
        if read_parameters_json(parameters, llm) && !known {
            attributes.take("langfuse.observation.model.parameters");
        }
    }
    if let Some(usage) = attributes.text("langfuse.observation.usage_details").and_then(Object::parse) {
        read_usage(&usage, llm);
        // Manual observations use these names.
        let Llm { input_tokens, output_tokens, .. } = llm;
        *input_tokens = input_tokens.or_else(|| usage.integer("input"));
        *output_tokens = output_tokens.or_else(|| usage.integer("output"));
    }
    if llm.input.is_empty()
        && let Some(input) = attributes.text("langfuse.observation.input")
        && read_input(input, llm).is_some()
    {
        attributes.take("langfuse.observation.input");
    }
    if llm.choices.is_empty()
        && let Some(output) = attributes.text("langfuse.observation.output")
    {
        let stated = match output.trim_start().starts_with(['{', '[']) {
            true => read_stated(output, Role::Assistant).unwrap_or_default(),
            false => Vec::new(),
        };
        if stated.is_empty() {
            let content = attributes.take_text("langfuse.observation.output");
            fill_choices(&mut llm.choices, vec![text_choice(content)]);
        } else {
            fill_choices(&mut llm.choices, genai::choices(stated, None));
            attributes.take("langfuse.observation.output");
        }
    }
}

fn text_choice(content: Option<String>) -> crate::trace::span::Choice {
    let message = crate::trace::message::Message { role: Role::Assistant, content, ..Default::default() };
    crate::trace::span::Choice { message, ..Default::default() }
}

/// A list of messages, an object of them and the tools, or a text.
fn read_input(input: &str, llm: &mut Llm) -> Option<()> {
    if let Some(object) = Object::parse(input)
        && let Some(messages) = object.get("messages")
    {
        llm.input = read_messages(messages.get()).ok()?;
        if let Some(tools) = object.get("tools") {
            push_tools(tools.get(), &mut llm.tools);
            llm.tools_known = true;
        }
        return object.iter().all(|(key, _)| matches!(key, "messages" | "tools")).then_some(());
    }
    if input.trim_start().starts_with('[') {
        llm.input = read_messages(input).ok()?;
        return Some(());
    }
    None
}

pub(super) fn tool(attributes: &mut Attributes<'_>, span: &Span, tool: &mut Tool) {
    genai::arguments(attributes, tool, "langfuse.observation.input");
    genai::result(attributes, tool, "langfuse.observation.output");
    tool.name.get_or_insert_with(|| span.name.clone());
}

pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span) {
    if span.kind == Kind::Agent {
        span.identity.agent.get_or_insert_with(|| span.name.clone());
    }
    attributes.fill_text("session.id", &mut span.identity.session_id);
    if attributes.text("langfuse.observation.level") == Some("ERROR") && span.status == Status::Unset {
        span.status = Status::Error;
    }
    attributes.fill_text("langfuse.observation.status_message", &mut span.status_message);
}
