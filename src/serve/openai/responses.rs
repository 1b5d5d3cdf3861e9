//! `/v1/responses`: items in, items out. An answer is a message, function calls, or both.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chat::Conversation;
use super::shared::{OneOrMany, SamplingFields, Token, Wish, alternatives, limit};
use super::{ApiError, form, messages};
use crate::text::grammar::Form;

/// What a client names in `include` for log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

#[derive(Debug, Clone, Deserialize)]
pub struct ResponsesRequest {
    pub input: Input,
    #[serde(default)]
    pub instructions: Option<String>,
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    #[serde(default)]
    pub tool_choice: Option<Value>,
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    #[serde(default)]
    pub max_output_tokens: Option<i64>,
    #[serde(default)]
    pub text: Option<Value>,
    #[serde(default)]
    pub include: Option<Vec<String>>,
    #[serde(default)]
    pub top_logprobs: Option<i64>,
    #[serde(default)]
    pub previous_response_id: Option<String>,
    #[serde(default)]
    pub store: Option<bool>,
    #[serde(default)]
    pub conversation: Option<Value>,
    #[serde(default)]
    pub background: Option<bool>,
    #[serde(default)]
    pub stop: Option<OneOrMany>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(flatten)]
    pub sampling: SamplingFields,
}

/// A user's text, or the items of a conversation.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Input {
    Text(String),
    Items(Vec<Value>),
}

impl ResponsesRequest {
    pub fn wish(&self) -> Result<Wish, ApiError> {
        if self.conversation.as_ref().is_some_and(|conversation| !conversation.is_null()) {
            let message = "this server keeps no conversations; name the response to go on from in `previous_response_id`";
            return Err(ApiError::unsupported("conversation", message));
        }
        if self.background == Some(true) {
            return Err(ApiError::unsupported("background", "`background` is not supported by this server"));
        }
        let top = alternatives("top_logprobs", self.top_logprobs)?;
        let asked = self.include.iter().flatten().any(|include| include == LOGPROBS);
        Ok(Wish {
            max_tokens: limit("max_output_tokens", self.max_output_tokens)?,
            logprobs: (asked || top > 0).then_some(top),
            stream: self.stream.unwrap_or(false),
            ..self.sampling.wish(self.stop.as_ref())?
        })
    }

    /// The input as chat messages.
    pub fn chat(&self) -> Result<Vec<Value>, ApiError> {
        let mut chat = Vec::new();
        match &self.input {
            Input::Text(text) => chat.push(json!({ "role": "user", "content": text })),
            Input::Items(items) => {
                for (index, item) in items.iter().enumerate() {
                    push_item(&mut chat, index, item)?;
                }
            }
        }
        Ok(chat)
    }

    /// * `said`: what was said before and the input, as chat messages.
    pub fn conversation<'a>(&self, said: impl Iterator<Item = &'a Value>) -> Result<Conversation, ApiError> {
        let instructions = self.instructions.as_ref().filter(|instructions| !instructions.is_empty());
        let instructions = instructions.map(|instructions| json!({ "role": "system", "content": instructions }));
        let chat: Vec<Value> = instructions.into_iter().chain(said.cloned()).collect();
        let tools = messages::tools(self.tools.as_deref())?;
        Ok(Conversation {
            messages: messages::normalise(&chat)?,
            tools: if form::offers_tools(self.tool_choice.as_ref()) { tools } else { Vec::new() },
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
        })
    }

    /// What the answer has to be; `None` where it may be anything.
    pub fn form(&self) -> Result<Option<Form>, ApiError> {
        let format = form::format("text", self.text.as_ref().and_then(|text| text.get("format")))?;
        let choice = form::choice(self.tool_choice.as_ref())?;
        form::form(format, &choice, self.tools.as_deref().unwrap_or_default(), self.parallel_tool_calls.unwrap_or(true))
    }
}

/// Appends an item as a chat message. The text and the function calls of one answer are items of their own, and one message.
fn push_item(chat: &mut Vec<Value>, index: usize, item: &Value) -> Result<(), ApiError> {
    let wrong = |what: String| ApiError::invalid("input", format!("`input[{index}]` {what}"));
    let text = |content: Option<&Value>| messages::text(content).map_err(wrong);
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let role = item["role"].as_str().ok_or_else(|| wrong("has no `role`".to_owned()))?;
            chat.push(json!({ "role": role, "content": text(item.get("content"))? }));
        }
        "function_call" => {
            let (Some(id), Some(name)) = (item["call_id"].as_str(), item["name"].as_str()) else {
                return Err(wrong("has no `call_id` or no `name`".to_owned()));
            };
            let call = json!({ "id": id, "type": "function", "function": { "name": name, "arguments": item["arguments"] } });
            match chat.last_mut().filter(|last| last["role"] == "assistant").and_then(Value::as_object_mut) {
                Some(last) => match last.entry("tool_calls").or_insert_with(|| json!([])) {
                    Value::Array(calls) => calls.push(call),
                    _ => return Err(wrong("follows a message whose tool calls are no list".to_owned())),
                },
                None => chat.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] })),
            }
        }
        "function_call_output" => {
            let id = item["call_id"].as_str().ok_or_else(|| wrong("has no `call_id`".to_owned()))?;
            chat.push(json!({ "role": "tool", "tool_call_id": id, "content": text(item.get("output"))? }));
        }
        // What a model thought is no part of the conversation that it reads again.
        "reasoning" => {}
        other => return Err(wrong(format!("is an item of type `{other}`, which this server does not know"))),
    }
    Ok(())
}

/// A function call of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionCall {
    pub id: String,
    pub call_id: String,
    pub name: String,
    pub arguments: String,
}

/// What every state of one response shares: the request's own fields are given back with it.
#[derive(Debug, Clone)]
pub struct Frame {
    pub id: String,
    pub created: u64,
    pub model: String,
    /// The request's body.
    pub request: Value,
}

impl Frame {
    /// The response object.
    ///
    /// * `status`: in_progress, completed or incomplete.
    pub fn response(&self, status: &str, output: &[Value], usage: Option<Value>) -> Value {
        let given =
            |key: &str, default: Value| self.request.get(key).filter(|value| !value.is_null()).cloned().unwrap_or(default);
        let incomplete = if status == "incomplete" { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "background": false, "error": null,
            "incomplete_details": incomplete, "instructions": given("instructions", Value::Null),
            "max_output_tokens": given("max_output_tokens", Value::Null), "model": self.model, "output": output,
            "parallel_tool_calls": given("parallel_tool_calls", json!(true)), "previous_response_id": given("previous_response_id", Value::Null),
            "reasoning": { "effort": null, "summary": null }, "store": given("store", json!(true)), "temperature": given("temperature", json!(1.0)),
            "text": given("text", json!({ "format": { "type": "text" } })), "tool_choice": given("tool_choice", json!("auto")), "tools": given("tools", json!([])),
            "top_p": given("top_p", json!(1.0)), "truncation": "disabled", "usage": usage, "user": null, "metadata": given("metadata", json!({})),
        })
    }
}

pub fn usage(input_tokens: usize, output_tokens: usize, cached_tokens: usize) -> Value {
    json!({
        "input_tokens": input_tokens, "input_tokens_details": { "cached_tokens": cached_tokens },
        "output_tokens": output_tokens, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": input_tokens + output_tokens,
    })
}

/// The part of a message item that holds its text.
pub fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}

pub fn message_item(id: &str, status: &str, parts: &[Value]) -> Value {
    json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": parts })
}

pub fn function_item(call: &FunctionCall, status: &str, arguments: &str) -> Value {
    json!({ "id": call.id, "type": "function_call", "status": status, "call_id": call.call_id, "name": call.name, "arguments": arguments })
}

pub fn logprobs(tokens: &[Token]) -> Vec<Value> {
    let entry = |text: &str, logprob: f32| -> Map<String, Value> {
        let mut entry = Map::new();
        entry.insert("token".to_owned(), text.into());
        entry.insert("logprob".to_owned(), logprob.into());
        entry.insert("bytes".to_owned(), text.as_bytes().into());
        entry
    };
    let of_token = |token: &Token| {
        let mut out = entry(&token.text, token.logprob);
        let top = token.top.iter().map(|other| Value::Object(entry(&other.text, other.logprob))).collect();
        out.insert("top_logprobs".to_owned(), Value::Array(top));
        Value::Object(out)
    };
    tokens.iter().map(of_token).collect()
}

#[cfg(test)]
mod tests {
    use super::super::shared::parse;
    use super::*;

    #[test]
    fn items_of_one_answer_are_one_message() {
        let asked: ResponsesRequest = parse(&json!({
            "instructions": "s",
            "input": [
                { "role": "user", "content": "q" },
                { "type": "reasoning", "id": "rs", "summary": [] },
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look." }] },
                { "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{\"x\":1}" },
                { "type": "function_call", "id": "fc_2", "call_id": "c2", "name": "g", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c1", "output": "1" },
                { "type": "function_call_output", "call_id": "c2", "output": [{ "type": "input_text", "text": "2" }] },
            ],
        }))
        .unwrap();
        let roles: Vec<Value> = asked.conversation(asked.chat().unwrap().iter()).unwrap().messages;
        let expected = json!([
            { "role": "system", "content": "s" },
            { "role": "user", "content": "q" },
            { "role": "assistant", "content": "I look.", "tool_calls": [
                { "id": "c1", "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } },
                { "id": "c2", "type": "function", "function": { "name": "g", "arguments": {} } }] },
            { "role": "tool", "content": "1", "tool_call_id": "c1" },
            { "role": "tool", "content": "2", "tool_call_id": "c2" },
        ]);
        assert_eq!(Value::Array(roles), expected);
    }

    #[test]
    fn what_needs_memory_of_the_server_is_refused() {
        let asked: ResponsesRequest = parse(&json!({ "input": "q", "conversation": "conv_1" })).unwrap();
        assert_eq!(asked.wish().unwrap_err().param, Some("conversation"));
        let asked: ResponsesRequest = parse(&json!({ "input": [{ "type": "computer_call" }] })).unwrap();
        assert_eq!(asked.chat().unwrap_err().param, Some("input"));
    }
}
