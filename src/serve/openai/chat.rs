//! `/v1/chat/completions`: request, response and the chunks of a stream.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shared::{Head, OneOrMany, SamplingFields, Token, Wish, alternatives, choices, limit};
use super::{ApiError, form, messages};
use crate::text::grammar::Form;

#[derive(Debug, Clone, Deserialize)]
pub struct ChatRequest {
    pub messages: Vec<Value>,
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    #[serde(default)]
    pub tool_choice: Option<Value>,
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    #[serde(default)]
    pub response_format: Option<Value>,
    #[serde(default)]
    pub n: Option<i64>,
    #[serde(default)]
    pub max_tokens: Option<i64>,
    #[serde(default)]
    pub max_completion_tokens: Option<i64>,
    #[serde(default)]
    pub stop: Option<OneOrMany>,
    #[serde(default)]
    pub logprobs: Option<bool>,
    #[serde(default)]
    pub top_logprobs: Option<i64>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    pub sampling: SamplingFields,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// A conversation to go on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// As templates read them.
    pub messages: Vec<Value>,
    /// Empty where none may be called.
    pub tools: Vec<Value>,
    /// Whether one answer may call several.
    pub parallel_tool_calls: bool,
}

impl ChatRequest {
    pub fn wish(&self) -> Result<Wish, ApiError> {
        let newer = limit("max_completion_tokens", self.max_completion_tokens)?;
        let logprobs = match (self.logprobs, alternatives("top_logprobs", self.top_logprobs)?) {
            (Some(true), top) => Some(top),
            (_, 0) => None,
            (_, _) => return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true` beside it")),
        };
        Ok(Wish {
            n: choices(self.n)?,
            max_tokens: newer.or(limit("max_tokens", self.max_tokens)?),
            logprobs,
            stream: self.stream.unwrap_or(false),
            ..self.sampling.wish(self.stop.as_ref())?
        })
    }

    pub fn conversation(&self) -> Result<Conversation, ApiError> {
        let tools = messages::tools(self.tools.as_deref())?;
        Ok(Conversation {
            messages: messages::normalise(&self.messages)?,
            tools: if form::offers_tools(self.tool_choice.as_ref()) { tools } else { Vec::new() },
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
        })
    }

    /// What the answer has to be; `None` where it may be anything.
    pub fn form(&self) -> Result<Option<Form>, ApiError> {
        let format = form::format("response_format", self.response_format.as_ref())?;
        let choice = form::choice(self.tool_choice.as_ref())?;
        form::form(format, &choice, self.tools.as_deref().unwrap_or_default(), self.parallel_tool_calls.unwrap_or(true))
    }

    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ChatResponse<'a> {
    #[serde(flatten)]
    pub head: Head<'a>,
    pub choices: Vec<ChatChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ChatChoice {
    pub index: usize,
    pub message: ChatMessage,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ChatMessage {
    pub role: &'static str,
    pub content: Option<String>,
    pub refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ChatToolCall>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatToolCall {
    /// Place among the calls of one answer: in streams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: ChatFunction,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatFunction {
    pub name: String,
    /// JSON text as the model wrote it.
    pub arguments: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
    pub refusal: Option<Vec<ChatLogprob>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ChatLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<ChatLogprob>>,
}

impl ChatLogprobs {
    pub fn of(tokens: &[Token]) -> ChatLogprobs {
        let entry = |text: &str, logprob: f32, top: Option<Vec<ChatLogprob>>| ChatLogprob {
            token: text.to_owned(),
            logprob,
            bytes: text.as_bytes().to_vec(),
            top_logprobs: top,
        };
        let content = tokens.iter().map(|token| {
            let top = token.top.iter().map(|other| entry(&other.text, other.logprob, None)).collect();
            entry(&token.text, token.logprob, Some(top))
        });
        ChatLogprobs { content: content.collect(), refusal: None }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct ChatChunk<'a> {
    #[serde(flatten)]
    pub head: Head<'a>,
    pub choices: Vec<ChunkChoice>,
    /// In the first chunk alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ChunkChoice {
    pub index: usize,
    pub delta: Delta,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    /// Ids since the chunk before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ChatToolCall>,
}

#[cfg(test)]
mod tests {
    use super::super::shared::parse;
    use super::*;
    use serde_json::json;

    fn request(more: Value) -> ChatRequest {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "q" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(&body).unwrap()
    }

    #[test]
    fn fields_of_a_request() {
        let asked = request(
            json!({ "n": 2, "max_tokens": 5, "max_completion_tokens": 7, "stop": ["x", "y"], "logprobs": true, "top_logprobs": 3,
            "temperature": 0.5, "seed": 4, "return_token_ids": true, "stream": true, "stream_options": { "include_usage": true }, "user": "u" }),
        );
        let wish = asked.wish().unwrap();
        assert_eq!(
            (wish.n, wish.max_tokens, wish.logprobs, wish.sampling.temperature, wish.seed),
            (2, Some(7), Some(3), 0.5, Some(4))
        );
        assert!(wish.return_token_ids && wish.stream && asked.include_usage());
        assert_eq!(wish.stops, ["x", "y"]);
        assert_eq!(request(json!({ "top_logprobs": 2 })).wish().unwrap_err().param, Some("top_logprobs"));
        assert_eq!(
            request(json!({ "response_format": { "type": "json_schema" } })).form().unwrap_err().param,
            Some("response_format")
        );
    }

    #[test]
    fn tools_that_may_not_be_called_are_not_offered() {
        let tool = json!({ "type": "function", "function": { "name": "f", "parameters": {} } });
        assert_eq!(request(json!({ "tools": [tool] })).conversation().unwrap().tools.len(), 1);
        assert!(request(json!({ "tools": [tool], "tool_choice": "none" })).conversation().unwrap().tools.is_empty());
    }
}
