//! Columns of LLM calls that are made from messages and lists: JSON texts, hashes, finish reasons, log-probabilities.

use serde::Serialize;
use serde_json::value::RawValue;

use super::status::short_hex;
use crate::trace::message::{Message, Role};
use crate::trace::span::{Choice, Llm};

/// The tools offered as the column `tools` holds them, `None` where the source could not say.
pub(super) fn tools_json(llm: &Llm) -> Option<String> {
    #[derive(Serialize)]
    struct Tool<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        parameters: Option<&'a RawValue>,
    }
    if llm.tools.is_empty() && !llm.tools_known {
        return None;
    }
    let tools = llm.tools.iter().map(|tool| Tool {
        name: &tool.name,
        description: tool.description.as_deref(),
        parameters: tool.parameters.as_deref().and_then(|json| serde_json::from_str(json).ok()),
    });
    Some(serde_json::to_string(&tools.collect::<Vec<_>>()).expect("strings and JSON texts are always valid JSON"))
}

/// One of stop, length, tool_calls, content_filter and error where the reason is known to mean that, else as recorded.
pub(super) fn finish_reason(recorded: &str) -> String {
    let reason = recorded.trim().trim_matches('"').rsplit('.').next().unwrap_or_default().to_ascii_lowercase().replace('-', "_");
    match reason.as_str() {
        "stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "completed" | "complete" | "finished" => "stop",
        "length" | "max_tokens" | "max_output_tokens" | "model_length" | "incomplete" => "length",
        "tool_calls" | "tool_call" | "function_calls" | "function_call" | "tool_use" => "tool_calls",
        "content_filter" | "content_filtered" | "safety" | "refusal" | "guardrail_intervened" => "content_filter",
        "error" | "failed" => "error",
        _ => return recorded.to_owned(),
    }
    .to_owned()
}

/// Hash of the latest message that is not the assistant's: what the agent has just observed.
pub(super) fn observation_hash(input: &[Message]) -> Option<String> {
    input.iter().rev().find(|message| message.role != Role::Assistant).map(|message| hash_messages([message]))
}

/// Hash of the whole prompt: of its messages, or of its token ids where only those are recorded.
pub(super) fn prompt_hash(llm: &Llm) -> Option<String> {
    if !llm.input.is_empty() {
        return Some(hash_messages(&llm.input));
    }
    let ids = llm.prompt_token_ids.as_ref()?;
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Some(short_hex(&blake3::hash(&bytes)))
}

/// Hash of the system and the first user message: the task, where nothing else names it.
pub(super) fn task_hash(input: &[Message]) -> Option<String> {
    let user = input.iter().find(|message| message.role == Role::User)?;
    let system = input.iter().find(|message| message.role == Role::System);
    Some(hash_messages(system.into_iter().chain([user])))
}

/// Ids of tool calls are left out: engines draw them at random, so that equal states would never meet.
fn hash_messages<'a>(messages: impl IntoIterator<Item = &'a Message>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    for message in messages {
        field(message.role.as_str());
        field(message.content.as_deref().unwrap_or_default());
        for call in &message.tool_calls {
            field(&call.name);
            field(&call.arguments);
        }
        field(message.parts_json.as_deref().unwrap_or_default());
    }
    short_hex(&hasher.finalize())
}

pub(super) fn refuses(choice: &Choice) -> bool {
    choice.message.refusal.is_some()
        || choice.finish_reason.as_deref().is_some_and(|reason| finish_reason(reason) == "content_filter")
}

/// Neither text nor a tool call; `None` where only token ids are recorded, which may be either.
pub(super) fn is_empty(choice: &Choice) -> Option<bool> {
    let message = &choice.message;
    let text = message.content.as_deref().is_some_and(|text| !text.trim().is_empty());
    let said = text || !message.tool_calls.is_empty() || message.refusal.is_some() || message.parts_json.is_some();
    let only_ids = message.content.is_none() && choice.token_ids.as_ref().is_some_and(|ids| !ids.is_empty());
    if !said && only_ids { None } else { Some(!said) }
}

/// The two log-probabilities of every sampled id: under temperature alone, and after every processor.
///
/// A source that states both is taken at its word. Of one that states a single one, engines differ in what it is (vLLM: before
/// temperature, by default; others: after every processor). All agree where nothing changes the distribution, that is at
/// temperature 1 without top_p, top_k, min_p, penalties or biases (the API's defaults where nothing is stated): then it is both.
/// Else it is the engine's own account of what it sampled from, and what the trainer would recompute stays unknown.
pub(super) fn logprobs(llm: &Llm, choice: &Choice) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    let ids = choice.token_ids.as_ref().map(Vec::len);
    let whole = |logprobs: &&Vec<f32>| ids.is_none_or(|ids| ids == logprobs.len());
    let stated = choice.logprobs.as_ref().filter(whole).cloned();
    let sampled = choice.sampled_logprobs.as_ref().filter(whole).cloned();
    match (stated, sampled) {
        (Some(behaviour), Some(sampled)) => (Some(behaviour), Some(sampled)),
        (Some(only), None) if samples_plainly(llm) => (Some(only.clone()), Some(only)),
        (only, None) | (None, only) => (None, only),
    }
}

fn samples_plainly(llm: &Llm) -> bool {
    let params = llm.params_json.as_deref().and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok());
    let number = |key: &str| params.as_ref().and_then(|params| params.get(key)).and_then(serde_json::Value::as_f64);
    let is = |key: &str, neutral: f64| number(key).is_none_or(|value| value == neutral);
    let no_bias = params
        .as_ref()
        .and_then(|params| params.get("logit_bias"))
        .is_none_or(|bias| bias.is_null() || bias.as_object().is_some_and(serde_json::Map::is_empty));
    llm.temperature.is_none_or(|temperature| temperature == 1.0)
        && llm.top_p.is_none_or(|top_p| top_p >= 1.0)
        && llm.top_k.is_none_or(|top_k| top_k <= 0)
        && is("min_p", 0.0)
        && is("frequency_penalty", 0.0)
        && is("presence_penalty", 0.0)
        && is("repetition_penalty", 1.0)
        && no_bias
}
