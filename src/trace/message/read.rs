//! Messages out of JSON: OpenAI chat and Responses, OpenTelemetry GenAI parts, LangChain, Vercel and Anthropic shapes.
//!
//! One struct, `Record`, names every key that any of them uses; a message, a part of one and a tool call in one are all
//! read with it, straight from the text. A key whose value has an unexpected type never fails the message.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::text::{compact, text};
use super::{Message, Role, ToolCallRequest, join, plain};

/// How deep lists of lists of messages are followed: LangChain has one list for each prompt of a batch.
const MAX_LIST_DEPTH: usize = 3;

/// A message with what the source states beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stated {
    pub message: Message,
    pub finish_reason: Option<String>,
}

type Raw<'a> = Option<&'a RawValue>;

#[derive(Default, Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    role: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
    #[serde(borrow)]
    parts: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    tool_calls: Raw<'a>,
    #[serde(borrow)]
    tool_call_id: Raw<'a>,
    #[serde(borrow)]
    function_call: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
    #[serde(borrow)]
    custom: Raw<'a>,
    #[serde(borrow)]
    refusal: Raw<'a>,
    #[serde(borrow)]
    reasoning_content: Raw<'a>,
    #[serde(borrow)]
    reasoning: Raw<'a>,
    #[serde(borrow)]
    thinking: Raw<'a>,
    #[serde(borrow)]
    summary: Raw<'a>,
    #[serde(borrow)]
    finish_reason: Raw<'a>,
    #[serde(borrow, alias = "isError")]
    is_error: Raw<'a>,
    #[serde(borrow)]
    status: Raw<'a>,
    // LangChain
    #[serde(borrow)]
    kwargs: Raw<'a>,
    #[serde(borrow)]
    data: Raw<'a>,
    #[serde(borrow)]
    additional_kwargs: Raw<'a>,
    #[serde(borrow)]
    response_metadata: Raw<'a>,
    // Tool calls and their results
    #[serde(borrow, alias = "toolCallId", alias = "tool_use_id")]
    call_id: Raw<'a>,
    #[serde(borrow, alias = "toolName")]
    tool_name: Raw<'a>,
    #[serde(borrow)]
    arguments: Raw<'a>,
    #[serde(borrow)]
    args: Raw<'a>,
    #[serde(borrow)]
    input: Raw<'a>,
    #[serde(borrow)]
    output: Raw<'a>,
    #[serde(borrow)]
    response: Raw<'a>,
    #[serde(borrow)]
    result: Raw<'a>,
    #[serde(borrow)]
    value: Raw<'a>,
    /// Pydantic AI's early events name their role here only (`gen_ai.user.message`).
    #[serde(borrow, rename = "event.name")]
    event_name: Raw<'a>,
}

/// Reads one message or a list of them, in any known shape. Messages without a role are the user's.
///
/// # Errors
/// The text is not JSON, or an object names a key twice.
pub fn read_messages(json: &str) -> Result<Vec<Message>, serde_json::Error> {
    Ok(read_stated(json, Role::User)?.into_iter().map(|stated| stated.message).collect())
}

/// Reads one message; where the source's message holds several (tool results), the first.
pub fn read_message(json: &str, default_role: Role) -> Result<Option<Message>, serde_json::Error> {
    Ok(read_stated(json, default_role)?.into_iter().next().map(|stated| stated.message))
}

/// As `read_messages`, with finish reasons, and with the role of messages that name none.
pub fn read_stated(json: &str, default_role: Role) -> Result<Vec<Stated>, serde_json::Error> {
    match plain::read(json) {
        Some(stated) => Ok(stated),
        None => read_any(json, default_role),
    }
}

/// Reads messages of every shape, slower.
pub(super) fn read_any(json: &str, default_role: Role) -> Result<Vec<Stated>, serde_json::Error> {
    let mut reader = Reader { default_role, out: Vec::new(), open: false };
    reader.push(json.trim(), 0)?;
    Ok(reader.out)
}

struct Reader {
    default_role: Role,
    out: Vec<Stated>,
    /// The last message is a response in the Responses API's shape, whose next item belongs to it.
    open: bool,
}

impl Reader {
    fn push(&mut self, json: &str, depth: usize) -> Result<(), serde_json::Error> {
        match json.as_bytes().first() {
            Some(b'[') if depth <= MAX_LIST_DEPTH => {
                for item in serde_json::from_str::<Vec<&RawValue>>(json)? {
                    self.push(item.get(), depth + 1)?;
                }
            }
            Some(b'{') => self.push_record(&serde_json::from_str(json)?, json),
            _ => {
                let value: &RawValue = serde_json::from_str(json)?;
                if value.get() != "null" {
                    self.push_text(text(value).into_owned());
                }
            }
        }
        Ok(())
    }

    fn push_text(&mut self, content: String) {
        self.open = false;
        let message = Message { role: self.default_role, content: Some(content), ..Message::default() };
        self.out.push(Stated { message, finish_reason: None });
    }

    fn push_record(&mut self, record: &Record<'_>, json: &str) {
        let kind = record.kind.map(text);
        if let Some(inner) = record.kwargs.or(record.data).filter(|inner| inner.get().starts_with('{'))
            && let Ok(mut inner) = serde_json::from_str::<Record<'_>>(inner.get())
        {
            // The wrapper's type is `constructor` or the role; the inner one is the role, or is missing.
            let class = record.id.and_then(last_of_path);
            if inner.role.is_none() && inner.kind.and_then(role_of).is_none() {
                inner.kind = record.kind.filter(|kind| role_of(kind).is_some()).or(inner.kind);
            }
            let role = class.as_deref().and_then(Role::from_name);
            return self.push_plain(&inner, role);
        }
        match kind.as_deref() {
            Some("function_call" | "custom_tool_call") if record.role.is_none() => {
                let mut message = Message { role: Role::Assistant, ..Message::default() };
                message.tool_calls.extend(tool_call(record));
                self.push_item(message);
            }
            Some("function_call_output" | "custom_tool_call_output") => {
                self.open = false;
                self.out.push(Stated { message: tool_result(record), finish_reason: None });
            }
            Some("reasoning") if record.role.is_none() => {
                let mut parts = Parts::default();
                parts.message.role = Role::Assistant;
                for source in [record.summary, record.content].into_iter().flatten() {
                    parts.add_reasoning(source);
                }
                self.push_item(parts.message);
            }
            Some("message") => {
                let mut parts = Parts::of(record);
                parts.message.role = record.role.and_then(role_of).unwrap_or(Role::Assistant);
                match parts.message.role {
                    Role::Assistant => self.push_item(parts.finish()),
                    _ => {
                        self.open = false;
                        self.out.push(Stated { message: parts.finish(), finish_reason: None });
                    }
                }
            }
            Some(other) if record.role.is_none() && Role::from_name(other).is_none() && record.is_unknown_item() => {
                let parts_json = Some(format!("[{}]", compact(json)));
                self.push_item(Message { role: Role::Assistant, parts_json, ..Message::default() });
            }
            _ => self.push_plain(record, None),
        }
    }

    /// An item of a response: joined to the item before, where that is of the same response.
    fn push_item(&mut self, message: Message) {
        match self.out.last_mut() {
            Some(last) if self.open => last.message.merge(message),
            _ => self.out.push(Stated { message, finish_reason: None }),
        }
        self.open = true;
    }

    fn push_plain(&mut self, record: &Record<'_>, class_role: Option<Role>) {
        self.open = false;
        let mut parts = Parts::of(record);
        parts.message.role = record
            .role
            .and_then(role_of)
            .or_else(|| record.kind.and_then(role_of))
            .or(class_role)
            .or_else(|| record.event_name.and_then(|name| role_of_event(&text(name))))
            .unwrap_or(self.default_role);
        if let Some(calls) = record.tool_calls.and_then(list) {
            parts.message.tool_calls =
                calls.iter().filter_map(|call| record_of(call)).filter_map(|call| tool_call(&call)).collect();
        }
        if let Some(call) = record.function_call.and_then(record_of) {
            parts.message.tool_calls.extend(tool_call(&call));
        }
        if let Some(more) = record.additional_kwargs.and_then(record_of) {
            parts.add_langchain_extras(&more);
        }
        let finish_reason = record.finish_reason.map(|reason| text(reason).into_owned()).or_else(|| {
            let metadata = record.response_metadata.and_then(record_of)?;
            Some(text(metadata.finish_reason?).into_owned())
        });
        let results = std::mem::take(&mut parts.results);
        let only_results = !results.is_empty() && parts.message.is_empty() && parts.message.reasoning.is_none();
        self.out.extend(results.into_iter().map(|message| Stated { message, finish_reason: None }));
        if !only_results {
            self.out.push(Stated { message: parts.finish(), finish_reason });
        }
    }
}

/// A message that is being put together from its parts.
#[derive(Default)]
struct Parts<'a> {
    message: Message,
    /// Results of tools that stand among the parts: messages of their own.
    results: Vec<Message>,
    /// The list of parts, where it holds more than text and tool calls.
    kept: Raw<'a>,
}

impl<'a> Parts<'a> {
    fn of(record: &Record<'a>) -> Self {
        let mut parts = Parts::default();
        let message = &mut parts.message;
        message.name = owned(record.name);
        message.tool_call_id = owned(record.tool_call_id.or(record.call_id));
        message.refusal = owned(record.refusal);
        message.reasoning = owned(record.reasoning_content.or(record.reasoning).or(record.thinking));
        message.is_error = record.is_error.and_then(flag).or_else(|| match text(record.status?).as_ref() {
            "error" => Some(true),
            "success" => Some(false),
            _ => None,
        });
        // LangChain repeats the calls among the parts; the list of calls is the better source.
        let calls_stand_apart = record.tool_calls.and_then(list).is_some_and(|calls| !calls.is_empty());
        for source in [record.content, record.parts].into_iter().flatten() {
            parts.add_content(source, calls_stand_apart);
        }
        // Early OpenTelemetry events and AutoGen put the id of the answered call into `id`.
        if parts.message.tool_call_id.is_none() && record.role.and_then(role_of) == Some(Role::Tool) {
            parts.message.tool_call_id = owned(record.id);
        }
        parts
    }

    fn add_content(&mut self, content: &'a RawValue, calls_stand_apart: bool) {
        let Some(items) = list(content) else {
            match content.get().starts_with('{').then(|| record_of(content)).flatten() {
                Some(part) if part.kind.is_some() => self.add_part(&part, content, content, calls_stand_apart),
                _ => join(&mut self.message.content, Some(text(content).into_owned()), ""),
            }
            return;
        };
        for item in items {
            match item.get().as_bytes().first() {
                Some(b'{') => match record_of(item) {
                    Some(part) => self.add_part(&part, item, content, calls_stand_apart),
                    None => self.kept = Some(content),
                },
                Some(b'"') => join(&mut self.message.content, Some(text(item).into_owned()), ""),
                Some(b'n') => {}
                _ => self.kept = Some(content),
            }
        }
    }

    fn add_part(&mut self, part: &Record<'a>, json: &'a RawValue, whole: &'a RawValue, calls_stand_apart: bool) {
        let kind = part.kind.map(text);
        match kind.as_deref() {
            None | Some("text" | "input_text" | "output_text" | "summary_text") => match part.text.or(part.content) {
                Some(words) if !words.get().starts_with(['{', '[']) => {
                    join(&mut self.message.content, Some(text(words).into_owned()), "");
                }
                _ => self.kept = Some(whole),
            },
            Some("reasoning" | "thinking" | "reasoning_text" | "reasoning_content") => self.add_reasoning(json),
            Some("refusal") => join(&mut self.message.refusal, owned(part.refusal.or(part.content)), ""),
            Some("tool_call" | "tool-call" | "tool_use" | "function_call" | "server_tool_call" | "server_tool_use") => {
                if !calls_stand_apart {
                    self.message.tool_calls.extend(tool_call(part));
                }
            }
            Some(
                "tool_call_response"
                | "tool-result"
                | "tool_result"
                | "function_call_output"
                | "server_tool_call_response"
                | "tool_response",
            ) => self.results.push(tool_result(part)),
            Some(_) => self.kept = Some(whole),
        }
    }

    fn add_reasoning(&mut self, value: &'a RawValue) {
        if let Some(items) = list(value) {
            return items.into_iter().for_each(|item| self.add_reasoning(item));
        }
        let words = match record_of(value) {
            Some(part) => owned(part.text.or(part.thinking).or(part.reasoning).or(part.content)),
            None => owned(Some(value)),
        };
        join(&mut self.message.reasoning, words, "\n");
    }

    /// LangChain keeps what the API sent beside the calls that it parsed: the arguments as the model wrote them.
    fn add_langchain_extras(&mut self, more: &Record<'a>) {
        let raw_calls: Vec<_> = more
            .tool_calls
            .and_then(list)
            .map(|calls| calls.iter().filter_map(|call| record_of(call)).filter_map(|call| tool_call(&call)).collect())
            .unwrap_or_default();
        if raw_calls.len() >= self.message.tool_calls.len() && !raw_calls.is_empty() {
            self.message.tool_calls = raw_calls;
        } else if self.message.tool_calls.is_empty()
            && let Some(call) = more.function_call.and_then(record_of)
        {
            self.message.tool_calls.extend(tool_call(&call));
        }
        if self.message.refusal.is_none() {
            self.message.refusal = owned(more.refusal);
        }
        if self.message.reasoning.is_none() {
            self.message.reasoning = owned(more.reasoning_content);
        }
    }

    fn finish(self) -> Message {
        let mut message = self.message;
        message.parts_json = self.kept.map(|parts| match compact(parts.get()) {
            parts if parts.starts_with('[') => parts.into_owned(),
            part => format!("[{part}]"),
        });
        message
    }
}

impl Record<'_> {
    /// No message: an item of the Responses API that has neither text nor calls (`web_search_call`, `item_reference`).
    fn is_unknown_item(&self) -> bool {
        self.content.is_none() && self.parts.is_none() && self.tool_calls.is_none() && self.text.is_none()
    }
}

/// A tool call, whether its name stands in a `function` object or beside the id; `None` where it has no name.
fn tool_call(record: &Record<'_>) -> Option<ToolCallRequest> {
    let id = owned(record.call_id.or(record.tool_call_id).or(record.id));
    let inner = record.function.or(record.custom).and_then(record_of);
    let source = inner.as_ref().unwrap_or(record);
    let arguments = source.arguments.or(source.args).or(source.input).map(|arguments| text(arguments).into_owned());
    let name = source.name.or(source.tool_name).map(|name| text(name).into_owned())?;
    Some(ToolCallRequest { id, name, arguments: arguments.unwrap_or_default() })
}

fn tool_result(record: &Record<'_>) -> Message {
    let mut message = Message {
        role: Role::Tool,
        name: owned(record.name.or(record.tool_name)),
        tool_call_id: owned(record.call_id.or(record.tool_call_id).or(record.id)),
        is_error: record.is_error.and_then(flag),
        ..Message::default()
    };
    let Some(result) = record.response.or(record.result).or(record.output).or(record.content) else { return message };
    // Vercel says in the result's own type what it is: text, json, error-text, error-json or content.
    if let Some(typed) = result.get().starts_with('{').then(|| record_of(result)).flatten()
        && let (Some(kind), Some(value)) = (typed.kind.map(text), typed.value)
    {
        if kind.starts_with("error-") {
            message.is_error = Some(true);
        }
        message.content = Some(result_text(value));
        return message;
    }
    message.content = Some(result_text(result));
    message
}

/// A tool's result as text: a list of nothing but text parts is its text.
pub(crate) fn result_text(result: &RawValue) -> String {
    if let Some(items) = list(result).filter(|items| !items.is_empty()) {
        let texts: Option<String> = items
            .into_iter()
            .map(|item| {
                let part = record_of(item)?;
                matches!(text(part.kind?).as_ref(), "text" | "output_text" | "input_text").then(|| part.text.map(text))?
            })
            .collect();
        if let Some(texts) = texts {
            return texts;
        }
    }
    text(result).into_owned()
}

fn role_of(value: &RawValue) -> Option<Role> {
    Role::from_name(&text(value))
}

fn role_of_event(name: &str) -> Option<Role> {
    if name == "gen_ai.choice" {
        return Some(Role::Assistant);
    }
    Role::from_name(name.strip_prefix("gen_ai.")?.strip_suffix(".message")?)
}

/// The last word of a LangChain class path, such as `["langchain", "schema", "messages", "HumanMessage"]`.
fn last_of_path(path: &RawValue) -> Option<String> {
    Some(text(list(path)?.last()?).into_owned())
}

fn list(value: &RawValue) -> Option<Vec<&RawValue>> {
    if !value.get().starts_with('[') {
        return None;
    }
    serde_json::from_str(value.get()).ok()
}

fn record_of(value: &RawValue) -> Option<Record<'_>> {
    if !value.get().starts_with('{') {
        return None;
    }
    serde_json::from_str(value.get()).ok()
}

fn owned(value: Raw<'_>) -> Option<String> {
    value.map(|value| text(value).into_owned())
}

fn flag(value: &RawValue) -> Option<bool> {
    match value.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
