//! The messages that nearly all traces hold, read in one pass: OpenAI chat and OpenTelemetry GenAI parts, nothing unusual.
//!
//! Strict where `read` is lenient. Whatever this does not know, it leaves to `read`, which makes the same of what both know
//! (a test compares them).

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::read::{Stated, result_text};
use super::text::text;
use super::{Message, Role, ToolCallRequest, join};

/// Messages of a list, or `None` where any of them has a key or a value that is not one of the plain ones.
pub(super) fn read(json: &str) -> Option<Vec<Stated>> {
    if !json.starts_with("[{") {
        return None;
    }
    let messages: Vec<Plain<'_>> = serde_json::from_str(json).ok()?;
    let mut out = Vec::with_capacity(messages.len());
    for message in messages {
        message.push(&mut out)?;
    }
    Some(out)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    role: PlainRole,
    content: Option<Content>,
    #[serde(borrow)]
    parts: Option<Vec<Part<'a>>>,
    name: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<Call>>,
    tool_call_id: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PlainRole {
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    Tool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part<'a> {
    #[serde(rename = "type")]
    kind: PartKind,
    content: Option<String>,
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartKind {
    Text,
    Reasoning,
    ToolCall,
    ToolCallResponse,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    id: Option<String>,
    #[serde(rename = "type")]
    _kind: Option<FunctionKind>,
    function: Function,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FunctionKind {
    Function,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    arguments: String,
}

/// A text, or parts that are all text, joined.
struct Content(Option<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextPart {
    #[serde(rename = "type")]
    _kind: TextKind,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TextKind {
    Text,
}

impl Plain<'_> {
    fn push(self, out: &mut Vec<Stated>) -> Option<()> {
        let mut message = Message {
            role: match self.role {
                PlainRole::System => Role::System,
                PlainRole::User => Role::User,
                PlainRole::Assistant => Role::Assistant,
                PlainRole::Tool => Role::Tool,
            },
            name: self.name,
            content: self.content.and_then(|content| content.0),
            reasoning: self.reasoning_content,
            tool_call_id: self.tool_call_id,
            ..Message::default()
        };
        let before = out.len();
        for part in self.parts.unwrap_or_default() {
            match part.kind {
                PartKind::Text => join(&mut message.content, Some(part.content?), ""),
                PartKind::Reasoning => join(&mut message.reasoning, Some(part.content?), "\n"),
                PartKind::ToolCall => message.tool_calls.push(ToolCallRequest {
                    id: part.id,
                    name: part.name?,
                    arguments: part.arguments.map(|arguments| text(arguments).into_owned()).unwrap_or_default(),
                }),
                PartKind::ToolCallResponse => {
                    // An object may say more than a text does.
                    let response = part.response.filter(|response| response.get().starts_with(['"', '[']))?;
                    let content = Some(result_text(response));
                    let (name, tool_call_id) = (part.name, part.id);
                    let result = Message { role: Role::Tool, name, tool_call_id, content, ..Message::default() };
                    out.push(Stated { message: result, finish_reason: None });
                }
            }
        }
        if let Some(calls) = self.tool_calls {
            message.tool_calls = calls
                .into_iter()
                .map(|call| ToolCallRequest { id: call.id, name: call.function.name, arguments: call.function.arguments })
                .collect();
        }
        let only_results = out.len() > before && message.is_empty() && message.reasoning.is_none();
        if !only_results {
            out.push(Stated { message, finish_reason: self.finish_reason });
        }
        Some(())
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;

        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or a list of text parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(Some(text.to_owned())))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut parts: S) -> Result<Content, S::Error> {
                let mut content = None;
                while let Some(part) = parts.next_element::<TextPart>()? {
                    join(&mut content, Some(part.text), "");
                }
                Ok(Content(content))
            }
        }

        deserializer.deserialize_any(TextOrParts)
    }
}
