//! Vercel AI SDK up to version 6: `ai.*`. (Version 7 writes GenAI names.)

use super::genai;
use crate::trace::attributes::{Attributes, Value, push_json_string};
use crate::trace::message::text::string;
use crate::trace::message::{Message, Role, ToolCallRequest, read_messages, read_stated};
use crate::trace::openai::{fill, fill_choices, push_tools};
use crate::trace::span::{Choice, Kind, Llm, Span, Tool};

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    attributes.fill_text("ai.model.provider", &mut llm.provider);
    attributes.fill_text("ai.model.id", &mut llm.model_requested);
    attributes.fill_text("ai.response.model", &mut llm.model);
    attributes.fill_text("ai.response.id", &mut llm.response_id);
    for key in ["ai.usage.inputTokens", "ai.usage.promptTokens"] {
        attributes.fill_int(key, &mut llm.input_tokens);
    }
    for key in ["ai.usage.outputTokens", "ai.usage.completionTokens"] {
        attributes.fill_int(key, &mut llm.output_tokens);
    }
    for key in ["ai.usage.cachedInputTokens", "ai.usage.inputTokenDetails.cacheReadTokens"] {
        attributes.fill_int(key, &mut llm.cached_tokens);
    }
    for key in ["ai.usage.reasoningTokens", "ai.usage.outputTokenDetails.reasoningTokens"] {
        attributes.fill_int(key, &mut llm.reasoning_tokens);
    }
    fill(&mut llm.stream, attributes.text("ai.operationId").map(|operation| operation.ends_with(".doStream")));
    if llm.input.is_empty()
        && let Some(json) = attributes.text("ai.prompt.messages")
        && let Ok(messages) = read_messages(json)
    {
        llm.input = messages;
        attributes.take("ai.prompt.messages");
    }
    if let Some(tools) = attributes.get("ai.prompt.tools").filter(|_| llm.tools.is_empty()).and_then(Value::as_text) {
        push_tools(&tools, &mut llm.tools);
        drop(tools);
        llm.tools_known = true;
        if !llm.tools.is_empty() {
            attributes.take("ai.prompt.tools");
        }
    }
    response(attributes, llm);
    parameters(attributes, llm);
}

fn response(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let mut message = Message { role: Role::Assistant, ..Message::default() };
    for key in ["ai.response.text", "ai.response.object", "ai.result.text"] {
        attributes.fill_text(key, &mut message.content);
    }
    attributes.fill_text("ai.response.reasoning", &mut message.reasoning);
    for key in ["ai.response.toolCalls", "ai.result.toolCalls"] {
        if let Some(calls) = attributes.text(key)
            && let Some(calls) = tool_calls(calls)
        {
            message.tool_calls = calls;
            attributes.take(key);
        }
    }
    let mut finish_reason = None;
    for key in ["ai.response.finishReason", "ai.finishReason"] {
        attributes.fill_text(key, &mut finish_reason);
    }
    if finish_reason.is_some() || !message.is_empty() {
        fill_choices(&mut llm.choices, vec![Choice { message, finish_reason, ..Choice::default() }]);
    }
}

fn tool_calls(json: &str) -> Option<Vec<ToolCallRequest>> {
    // The list lacks the parts' type in some versions; as a message's calls it needs none.
    let stated = read_stated(&format!("{{\"role\":\"assistant\",\"tool_calls\":{json}}}"), Role::Assistant).ok()?;
    stated.into_iter().next().map(|stated| stated.message.tool_calls).filter(|calls| !calls.is_empty())
}

/// Settings that shape the response, under the names of the OpenAI API where it has one.
fn parameters(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let setting = |key: &str| attributes.get(key).cloned();
    fill(&mut llm.temperature, setting("ai.settings.temperature").and_then(|value| value.as_double()));
    fill(&mut llm.top_p, setting("ai.settings.topP").and_then(|value| value.as_double()));
    fill(&mut llm.top_k, setting("ai.settings.topK").and_then(|value| value.as_int()));
    let limit = setting("ai.settings.maxOutputTokens").or_else(|| setting("ai.settings.maxTokens"));
    fill(&mut llm.max_tokens, limit.and_then(|value| value.as_int()));
    if llm.params_json.is_some() {
        return;
    }
    let mut json = String::new();
    attributes.drain_prefix("ai.settings.", |key, value| {
        json.push(if json.is_empty() { '{' } else { ',' });
        push_json_string(&mut json, key);
        json.push(':');
        value.push_json(&mut json);
        None
    });
    if !json.is_empty() {
        json.push('}');
        llm.params_json = Some(json);
    }
}

pub(super) fn tool(attributes: &mut Attributes<'_>, tool: &mut Tool) {
    attributes.fill_text("ai.toolCall.name", &mut tool.name);
    attributes.fill_text("ai.toolCall.id", &mut tool.call_id);
    genai::arguments(attributes, tool, "ai.toolCall.args");
    // The result is JSON: a text is a JSON string.
    if let Some(text) = attributes.text("ai.toolCall.result").and_then(string).map(|text| text.into_owned()) {
        attributes.replace("ai.toolCall.result", Some(Value::Str(text.into())));
    }
    genai::result(attributes, tool, "ai.toolCall.result");
}

/// The function id is the name that the author gave to what calls the model.
pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span) {
    let Some(function) = attributes.text("ai.telemetry.functionId") else { return };
    match span.kind {
        Kind::Llm | Kind::Tool => fill(&mut span.identity.agent_hint, Some(function.to_owned())),
        _ => fill(&mut span.identity.agent, Some(function.to_owned())),
    }
}
