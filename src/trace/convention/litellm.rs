//! LiteLLM's proxy: `llm.hosted_vllm.*`, whose values are Python literals as text, not JSON.

use super::python;
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::read_messages;
use crate::trace::object::Object;
use crate::trace::openai::{fill, fill_choices, push_tools, read_response, read_usage};
use crate::trace::span::{Choice, Identity, Llm};

/// Its attributes are named `llm.<provider>.<field of request or response>`; token ids come from vLLM servers only.
pub(super) const PREFIX: &str = "llm.hosted_vllm.";

pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    let literal = |field: &str| -> Option<String> {
        let value = attributes.get(&format!("{PREFIX}{field}"))?;
        match value {
            Value::Str(text) => python::to_json(text),
            other => other.as_text().map(Into::into),
        }
    };
    let prompt_token_ids: Option<Vec<i32>> = literal("prompt_token_ids").and_then(|json| serde_json::from_str(&json).ok());
    let token_ids: Option<Vec<Vec<i32>>> = literal("response_token_ids").and_then(|json| {
        // One list for each choice; alone, some versions leave the outer list out.
        serde_json::from_str(&json).ok().or_else(|| Some(vec![serde_json::from_str(&json).ok()?]))
    });
    let choices = literal("choices");
    let messages = literal("messages").and_then(|json| read_messages(&json).ok());
    let (tools, usage) = (literal("tools"), literal("usage"));

    if let Some(choices) = &choices {
        read_response(&format!("{{\"choices\":{choices}}}"), llm);
    }
    if let Some(token_ids) = &token_ids {
        let found = token_ids.iter().map(|ids| Choice { token_ids: Some(ids.clone()), ..Choice::default() }).collect();
        fill_choices(&mut llm.choices, found);
    }
    if let Some(messages) = messages.filter(|_| llm.input.is_empty()) {
        llm.input = messages;
        attributes.take("llm.hosted_vllm.messages");
    }
    if let Some(tools) = tools.filter(|_| llm.tools.is_empty()) {
        push_tools(&tools, &mut llm.tools);
        llm.tools_known = true;
    }
    if let Some(usage) = usage.as_deref().and_then(Object::parse) {
        read_usage(&usage, llm);
    }
    for (field, is_read) in [("prompt_token_ids", prompt_token_ids.is_some()), ("response_token_ids", token_ids.is_some())] {
        if is_read {
            attributes.take(&format!("{PREFIX}{field}"));
        }
    }
    fill(&mut llm.prompt_token_ids, prompt_token_ids);
    attributes.fill_text("llm.hosted_vllm.id", &mut llm.response_id);
    attributes.fill_text("llm.hosted_vllm.model", &mut llm.model);
    attributes.fill_double("llm.hosted_vllm.temperature", &mut llm.temperature);
}

/// The headers that Agent Lightning's proxy client sends, as the text of a Python dict.
pub(super) fn headers(attributes: &Attributes<'_>, identity: &mut Identity) {
    let Some(headers) = attributes.text("metadata.requester_custom_headers").and_then(python::to_json) else { return };
    let Some(headers) = Object::parse(&headers) else { return };
    fill(&mut identity.rollout_id, headers.text("x-rollout-id").filter(|id| !id.is_empty()).map(Into::into));
    fill(&mut identity.attempt_id, headers.text("x-attempt-id").filter(|id| !id.is_empty()).map(Into::into));
}
