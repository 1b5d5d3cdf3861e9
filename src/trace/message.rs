//! Chat messages in one shape, whatever the source called them (rule 7.8).

mod indexed;
mod plain;
mod read;
pub mod text;

use serde::{Deserialize, Serialize};

pub use indexed::{take_openinference, take_traceloop};
pub(crate) use read::result_text;
pub use read::{Stated, read_message, read_messages, read_stated};

use super::attributes::push_json_string;

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

impl Role {
    /// The text that the tables hold.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role behind any of the names that APIs and frameworks give it; `None` for a word that is not one.
    pub fn from_name(name: &str) -> Option<Role> {
        Some(match name {
            "system" | "developer" | "System" | "SystemMessage" | "SystemMessageChunk" => Role::System,
            "user" | "human" | "User" | "HumanMessage" | "HumanMessageChunk" | "UserMessage" => Role::User,
            "assistant" | "ai" | "model" | "Assistant" | "AIMessage" | "AIMessageChunk" | "AssistantMessage" => Role::Assistant,
            "tool" | "function" | "Tool" | "ToolMessage" | "ToolMessageChunk" | "FunctionMessage" => Role::Tool,
            _ => return None,
        })
    }
}

impl Message {
    /// Appends the message as the tables hold it: the shape of OpenAI chat messages with keys in a fixed order, `role` and
    /// `content` always, every other key only where there is something to say.
    pub fn push_json(&self, json: &mut String) {
        json.push_str("{\"role\":\"");
        json.push_str(self.role.as_str());
        json.push_str("\",\"content\":");
        match &self.content {
            Some(content) => push_json_string(json, content),
            None => json.push_str("null"),
        }
        push_field(json, "reasoning_content", self.reasoning.as_deref());
        push_field(json, "refusal", self.refusal.as_deref());
        push_field(json, "name", self.name.as_deref());
        if !self.tool_calls.is_empty() {
            json.push_str(",\"tool_calls\":[");
            for (index, call) in self.tool_calls.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                call.push_json(json);
            }
            json.push(']');
        }
        push_field(json, "tool_call_id", self.tool_call_id.as_deref());
        if let Some(is_error) = self.is_error {
            json.push_str(if is_error { ",\"is_error\":true" } else { ",\"is_error\":false" });
        }
        if let Some(parts) = &self.parts_json {
            json.push_str(",\"parts\":");
            json.push_str(parts);
        }
        json.push('}');
    }

    /// About how many bytes of memory the message takes.
    pub fn size_bytes(&self) -> usize {
        let texts = [&self.content, &self.reasoning, &self.refusal, &self.parts_json];
        let calls = self.tool_calls.iter().map(|call| size_of::<ToolCallRequest>() + call.name.len() + call.arguments.len());
        size_of::<Message>() + texts.into_iter().flatten().map(String::len).sum::<usize>() + calls.sum::<usize>()
    }

    pub fn to_json(&self) -> String {
        let mut json = String::new();
        self.push_json(&mut json);
        json
    }

    /// Neither text nor a tool call, nor anything else that a reader could see.
    pub fn is_empty(&self) -> bool {
        let blank = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        blank(&self.content) && blank(&self.refusal) && self.tool_calls.is_empty() && self.parts_json.is_none()
    }

    /// Joins a later part of one response to this one: some bridges write the text and the tool calls of one response as
    /// two messages (rule 7.8). Texts are joined by a line break.
    pub fn merge(&mut self, later: Message) {
        join(&mut self.content, later.content, "\n");
        join(&mut self.reasoning, later.reasoning, "\n");
        join(&mut self.refusal, later.refusal, "\n");
        self.tool_calls.extend(later.tool_calls);
        self.name = self.name.take().or(later.name);
        self.parts_json = match (self.parts_json.take(), later.parts_json) {
            (Some(first), Some(second)) => Some(format!("{},{}", &first[..first.len() - 1], &second[1..])),
            (first, second) => first.or(second),
        };
    }
}

impl ToolCallRequest {
    fn push_json(&self, json: &mut String) {
        json.push_str("{\"id\":");
        match &self.id {
            Some(id) => push_json_string(json, id),
            None => json.push_str("null"),
        }
        json.push_str(",\"type\":\"function\",\"function\":{\"name\":");
        push_json_string(json, &self.name);
        json.push_str(",\"arguments\":");
        push_json_string(json, &self.arguments);
        json.push_str("}}");
    }
}

/// Whether the reader of plain messages makes the same of a text as the one of every shape, where it makes anything of it. For tests
/// and fuzz targets.
#[cfg(any(test, fuzzing))]
pub fn readers_agree(json: &str) -> bool {
    plain::read(json).is_none_or(|plain| read::read_any(json, Role::User).is_ok_and(|any| any == plain))
}

/// Messages as the JSON array that the tables hold.
pub fn messages_to_json(messages: &[Message]) -> String {
    let mut json = String::from("[");
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        message.push_json(&mut json);
    }
    json.push(']');
    json
}

fn push_field(json: &mut String, key: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    json.push_str(",\"");
    json.push_str(key);
    json.push_str("\":");
    push_json_string(json, value);
}

fn join(text: &mut Option<String>, later: Option<String>, separator: &str) {
    let Some(later) = later else { return };
    match text {
        Some(text) if !text.is_empty() && !later.is_empty() => {
            text.push_str(separator);
            text.push_str(&later);
        }
        Some(text) => text.push_str(&later),
        None => *text = Some(later),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a list of messages in some source's shape becomes in the tables.
    fn check(source: &str, expected: &str) {
        let messages = read_messages(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(messages_to_json(&messages), expected, "from {source}");
    }

    #[test]
    fn plain_messages_are_read_alike_in_one_pass() {
        for (json, is_plain) in [
            (
                r#"[{"role":"developer","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"e"}]"#,
                true,
            ),
            (
                r#"[{"role":"assistant","content":null,"reasoning_content":"h","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":""}]"#,
                true,
            ),
            (
                r#"[{"role":"system","parts":[{"type":"text","content":"a"},{"type":"text","content":"\u00e9\n"}]},{"role":"user","parts":[]},{"role":"user","content":[]}]"#,
                true,
            ),
            (
                r#"[{"role":"assistant","parts":[{"type":"reasoning","content":"r"},{"type":"reasoning","content":"q"},{"type":"tool_call","id":"c","name":"f","arguments":{"a": 1}},{"type":"tool_call","id":null,"name":"g"}],"finish_reason":"stop"}]"#,
                true,
            ),
            (
                r#"[{"role":"tool","parts":[{"type":"tool_call_response","id":"c","name":"f","response":"x"},{"type":"tool_call_response","id":"d","response":[1, 2]}]}]"#,
                true,
            ),
            (
                r#"[{"role":"user","parts":[{"type":"tool_call_response","id":"c","response":"x"},{"type":"text","content":"go"}]}]"#,
                true,
            ),
            (
                r#"[{"role":"tool","parts":[{"type":"tool_call_response","id":"c","response":{"type":"error-text","value":"x"}}]}]"#,
                false,
            ),
            (r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#, false),
            (r#"[{"role":"assistant","content":"x","annotations":[]}]"#, false),
            (r#"[{"role":"assistant","content":"x","refusal":"no"}]"#, false),
            (r#"[{"type":"function_call","name":"f","arguments":"{}"}]"#, false),
            (r#"[{"role":"function","content":"x"}]"#, false),
            (r#"{"role":"user","content":"x"}"#, false),
        ] {
            assert_eq!(plain::read(json).is_some(), is_plain, "{json}");
            assert!(readers_agree(json), "{json}");
        }
    }

    #[test]
    fn openai_chat() {
        check(
            r#"[{"role":"developer","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"eve"}]"#,
            r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"ab","name":"eve"}]"#,
        );
        check(
            r#"[{"role":"assistant","content":null,"reasoning_content":"hm","refusal":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}]}]"#,
            r#"[{"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}]}]"#,
        );
        check(
            r#"[{"role":"assistant","content":"","function_call":{"name":"f","arguments":"{}"}},{"role":"function","name":"f","content":"1"}]"#,
            r#"[{"role":"assistant","content":"","tool_calls":[{"id":null,"type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"1","name":"f"}]"#,
        );
        check(r#"{"role":"assistant","refusal":"No."}"#, r#"[{"role":"assistant","content":null,"refusal":"No."}]"#);
    }

    #[test]
    fn parts_that_are_not_text_are_kept() {
        check(
            r#"[{"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url": "x"}}]}]"#,
            r#"[{"role":"user","content":"see","parts":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"x"}}]}]"#,
        );
    }

    #[test]
    fn genai_parts() {
        check(
            r#"[{"role":"system","parts":[{"type":"text","content":"s"}]},
                {"role":"assistant","parts":[{"type":"reasoning","content":"r"},{"type":"tool_call","id":"c1","name":"f","arguments":{"a": [1, 2]}}],"finish_reason":"tool_call"},
                {"role":"tool","parts":[{"type":"tool_call_response","id":"c1","response":"x"},{"type":"tool_call_response","id":"c2","result":{"v": 1}}]}]"#,
            r#"[{"role":"system","content":"s"},{"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":[1,2]}"}}]},{"role":"tool","content":"x","tool_call_id":"c1"},{"role":"tool","content":"{\"v\":1}","tool_call_id":"c2"}]"#,
        );
        // Pydantic AI puts results into a user message; what the user says besides comes after them.
        check(
            r#"[{"role":"user","parts":[{"type":"tool_call_response","id":"c1","name":"f","result":"4"},{"type":"text","content":"go on"}]}]"#,
            r#"[{"role":"tool","content":"4","name":"f","tool_call_id":"c1"},{"role":"user","content":"go on"}]"#,
        );
    }

    #[test]
    fn langchain_dicts() {
        check(
            r#"[[{"lc":1,"type":"constructor","id":["langchain","schema","messages","HumanMessage"],"kwargs":{"content":"q","type":"human"}},
                 {"lc":1,"type":"constructor","id":["langchain","schema","messages","AIMessage"],"kwargs":{"content":"","additional_kwargs":{"refusal":null},"tool_calls":[{"name":"f","args":{"a": 1},"id":"c1","type":"tool_call"}],"type":"ai"}},
                 {"lc":1,"type":"constructor","id":["langchain","schema","messages","ToolMessage"],"kwargs":{"content":"boom","tool_call_id":"c1","status":"error","type":"tool","name":"f"}}]]"#,
            r#"[{"role":"user","content":"q"},{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","content":"boom","name":"f","tool_call_id":"c1","is_error":true}]"#,
        );
        check(
            r#"[{"type":"human","data":{"content":"q","type":"human","name":null}},{"type":"ai","content":"a"}]"#,
            r#"[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#,
        );
    }

    #[test]
    fn responses_items_of_one_response_are_one_message() {
        check(
            r#"[{"role":"user","content":"q"},
                {"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"think"}]},
                {"type":"message","role":"assistant","content":[{"type":"output_text","text":"t","annotations":[]}]},
                {"type":"function_call","call_id":"c1","name":"f","arguments":"{}","id":"fc_1"},
                {"type":"function_call","call_id":"c2","name":"g","arguments":"{}"},
                {"type":"function_call_output","call_id":"c1","output":"1"},
                {"type":"function_call","call_id":"c3","name":"h","arguments":"{}"}]"#,
            r#"[{"role":"user","content":"q"},{"role":"assistant","content":"t","reasoning_content":"think","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}]},{"role":"tool","content":"1","tool_call_id":"c1"},{"role":"assistant","content":null,"tool_calls":[{"id":"c3","type":"function","function":{"name":"h","arguments":"{}"}}]}]"#,
        );
    }

    #[test]
    fn vercel_and_anthropic_parts() {
        check(
            r#"[{"role":"assistant","content":[{"type":"tool-call","toolCallId":"c1","toolName":"f","input":{"a":1}}]},
                {"role":"tool","content":[{"type":"tool-result","toolCallId":"c1","toolName":"f","output":{"type":"error-text","value":"boom"}}]}]"#,
            r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","content":"boom","name":"f","tool_call_id":"c1","is_error":true}]"#,
        );
        check(
            r#"[{"role":"assistant","content":[{"type":"thinking","thinking":"h"},{"type":"tool_use","id":"t1","name":"f","input":{}}]},
                {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"r"}],"is_error":false}]}]"#,
            r#"[{"role":"assistant","content":null,"reasoning_content":"h","tool_calls":[{"id":"t1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"r","tool_call_id":"t1","is_error":false}]"#,
        );
    }

    #[test]
    fn odd_values_are_kept_as_text() {
        check(r#"["hello", 3]"#, r#"[{"role":"user","content":"hello"},{"role":"user","content":"3"}]"#);
        check(
            r#"[{"role":"tool","content":{"rows": 0},"tool_call_id":7}]"#,
            r#"[{"role":"tool","content":"{\"rows\":0}","tool_call_id":"7"}]"#,
        );
        assert!(read_messages("[{\"role\":").is_err());
        let deep = format!("[{{\"role\":\"user\",\"content\":{}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read_messages(&deep).unwrap().len(), 1);
    }
}
