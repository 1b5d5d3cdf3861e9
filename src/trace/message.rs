//! Chat messages in one shape, whatever the source called them (rule 7.8).

use serde::{Deserialize, Serialize};

/// One chat message, normalised: roles are system, user, assistant or tool; text parts are joined; tool calls stand apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub name: Option<String>,
    /// The text; `None` where the message has none, which is not the same as an empty text.
    pub content: Option<String>,
    pub reasoning: Option<String>,
    /// The API's own refusal text.
    pub refusal: Option<String>,
    pub tool_calls: Vec<ToolCallRequest>,
    /// Role `tool`: the call that this answers.
    pub tool_call_id: Option<String>,
    /// Role `tool`: an explicit flag in the source.
    pub is_error: Option<bool>,
    /// JSON array of the original parts, only where they hold more than text (images, files, order that matters).
    pub parts_json: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    System,
    #[default]
    User,
    Assistant,
    Tool,
}

/// A tool call that a response asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallRequest {
    pub id: Option<String>,
    pub name: String,
    /// JSON text as the model wrote it; an object in the source is written as compact JSON.
    pub arguments: String,
}
