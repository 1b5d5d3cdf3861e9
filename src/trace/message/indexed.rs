//! Messages spread over indexed attributes (`gen_ai.prompt.3.role`): sorted by number, holes allowed, unknown keys left.

use super::read::{Stated, read_stated};
use super::{Message, Role, ToolCallRequest, join};
use crate::trace::attributes::{Attributes, Value, push_json_string};

/// Takes the messages under `prefix` as OpenInference writes them: `<prefix>{i}.message.role`, `.content`,
/// `.contents.{k}.message_content.text`, `.tool_calls.{j}.tool_call.function.name` and so on.
///
/// * `prefix`: `llm.input_messages.` or `llm.output_messages.`, with its dot.
pub fn take_openinference(attributes: &mut Attributes<'_>, prefix: &str, default_role: Role) -> Vec<Stated> {
    take(attributes, prefix, default_role, |slot, key, value| {
        let Some(key) = key.strip_prefix("message.") else { return set_autogen(slot, key, value) };
        if let Some(rest) = key.strip_prefix("tool_calls.") {
            let Some((number, key)) = split_index(rest) else { return Some(value) };
            let call = slot.call(number);
            match key {
                "tool_call.id" => call.id = value.into_text(),
                "tool_call.function.name" => call.name = value.into_text().unwrap_or_default(),
                "tool_call.function.arguments" => call.arguments = value.into_text().unwrap_or_default(),
                _ => return Some(value),
            }
            return None;
        }
        if let Some(rest) = key.strip_prefix("contents.") {
            let Some((number, key)) = split_index(rest) else { return Some(value) };
            let Some(key) = key.strip_prefix("message_content.") else { return Some(value) };
            slot.part(number).push((key.to_owned(), value.into_text().unwrap_or_default()));
            return None;
        }
        let message = &mut slot.stated.message;
        match key {
            "role" => slot.role = value.into_text(),
            "content" => message.content = value.into_text(),
            "name" => message.name = value.into_text(),
            "tool_call_id" => message.tool_call_id = value.into_text(),
            "function_call_name" => slot.call(0).name = value.into_text().unwrap_or_default(),
            "function_call_arguments_json" => slot.call(0).arguments = value.into_text().unwrap_or_default(),
            _ => return set_autogen(slot, key, value),
        }
        None
    })
}

/// AutoGen's additions: results of tools, a JSON object `{"content", "name", "call_id", "is_error"}` for each, and the text that
/// came with tool calls. They stand beside `message.` or in it.
fn set_autogen<'a>(slot: &mut Slot, key: &str, value: Value<'a>) -> Option<Value<'a>> {
    if let Some(number) = key.strip_prefix("function.").and_then(|number| number.parse().ok()) {
        let result = value.as_text().and_then(|json| read_stated(&json, Role::Tool).ok()?.into_iter().next());
        let Some(mut result) = result else { return Some(value) };
        result.message.role = Role::Tool;
        slot.results.push((number, result));
        return None;
    }
    if key == "thought" && slot.stated.message.content.is_none() {
        slot.stated.message.content = value.into_text();
        return None;
    }
    Some(value)
}

/// Takes the messages under `prefix` as Traceloop and AgentOps write them: `<prefix>{i}.role`, `.content`,
/// `.tool_calls.{j}.name` and so on.
///
/// * `prefix`: `gen_ai.prompt.` or `gen_ai.completion.`, with its dot.
pub fn take_traceloop(attributes: &mut Attributes<'_>, prefix: &str, default_role: Role) -> Vec<Stated> {
    take(attributes, prefix, default_role, |slot, key, value| {
        if let Some(rest) = key.strip_prefix("tool_calls.") {
            let Some((number, key)) = split_index(rest) else { return Some(value) };
            let call = slot.call(number);
            match key {
                "id" => call.id = value.into_text(),
                "name" | "function.name" => call.name = value.into_text().unwrap_or_default(),
                "arguments" | "function.arguments" => call.arguments = value.into_text().unwrap_or_default(),
                "type" => {}
                _ => return Some(value),
            }
            return None;
        }
        let message = &mut slot.stated.message;
        match key {
            "role" => slot.role = value.into_text(),
            "content" => match value.into_text() {
                // An empty text that was written as JSON.
                Some(content) if content == "\"\"" => message.content = Some(String::new()),
                Some(content) => slot.set_content(content),
                None => {}
            },
            "finish_reason" => slot.stated.finish_reason = value.into_text(),
            "name" => message.name = value.into_text(),
            "tool_call_id" => message.tool_call_id = value.into_text(),
            "refusal" => message.refusal = value.into_text(),
            "reasoning" | "reasoning_content" => message.reasoning = value.into_text(),
            "function_call.name" => slot.call(0).name = value.into_text().unwrap_or_default(),
            "function_call.arguments" => slot.call(0).arguments = value.into_text().unwrap_or_default(),
            _ => return Some(value),
        }
        None
    })
}

/// One message that is being put together.
#[derive(Default)]
struct Slot {
    index: u32,
    role: Option<String>,
    stated: Stated,
    calls: Vec<(u32, ToolCallRequest)>,
    parts: Vec<(u32, Vec<(String, String)>)>,
    /// Results of several tools in one message: messages of their own.
    results: Vec<(u32, Stated)>,
}

fn take<'a>(
    attributes: &mut Attributes<'a>,
    prefix: &str,
    default_role: Role,
    mut set: impl FnMut(&mut Slot, &str, Value<'a>) -> Option<Value<'a>>,
) -> Vec<Stated> {
    let mut slots: Vec<Slot> = Vec::new();
    attributes.drain_prefix(prefix, |key, value| {
        let Some((index, key)) = split_index(key) else { return Some(value) };
        // Keys are sorted as text, so those of one message stand together.
        if slots.last().is_none_or(|slot| slot.index != index) {
            slots.push(Slot { index, ..Slot::default() });
        }
        set(slots.last_mut()?, key, value)
    });
    slots.sort_by_key(|slot| slot.index);
    let messages = slots.into_iter().flat_map(|mut slot| {
        slot.results.sort_by_key(|(number, _)| *number);
        let results: Vec<Stated> = std::mem::take(&mut slot.results).into_iter().map(|(_, result)| result).collect();
        let message = slot.finish(default_role);
        let stands_alone = results.is_empty() || !message.message.is_empty();
        results.into_iter().chain(stands_alone.then_some(message))
    });
    messages.filter(|stated| *stated != Stated::default()).collect()
}

impl Slot {
    fn call(&mut self, number: u32) -> &mut ToolCallRequest {
        let position = self.calls.iter().position(|(taken, _)| *taken == number).unwrap_or_else(|| {
            self.calls.push((number, ToolCallRequest::default()));
            self.calls.len() - 1
        });
        &mut self.calls[position].1
    }

    fn part(&mut self, number: u32) -> &mut Vec<(String, String)> {
        let position = self.parts.iter().position(|(taken, _)| *taken == number).unwrap_or_else(|| {
            self.parts.push((number, Vec::new()));
            self.parts.len() - 1
        });
        &mut self.parts[position].1
    }

    /// Content of several parts is written as the JSON list of them.
    fn set_content(&mut self, content: String) {
        let message = &mut self.stated.message;
        if content.starts_with("[{\"type\"")
            && let Ok(read) = read_stated(&format!("{{\"role\":\"user\",\"content\":{content}}}"), Role::User)
            && let [Stated { message: Message { content: text, parts_json, tool_calls, reasoning, .. }, .. }] = read.as_slice()
            && tool_calls.is_empty()
        {
            message.content = text.clone();
            message.parts_json = parts_json.clone();
            message.reasoning = reasoning.clone().or(message.reasoning.take());
            return;
        }
        message.content = Some(content);
    }

    fn finish(mut self, default_role: Role) -> Stated {
        let message = &mut self.stated.message;
        message.role = self.role.as_deref().and_then(Role::from_name).unwrap_or(default_role);
        self.calls.sort_by_key(|(number, _)| *number);
        message.tool_calls.extend(self.calls.into_iter().map(|(_, call)| call));
        self.parts.sort_by_key(|(number, _)| *number);
        let only_text = self.parts.iter().all(|(_, part)| part.iter().all(|(key, _)| key == "type" || key == "text"));
        for (_, part) in &self.parts {
            let field = |name| part.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            match field("type").as_deref() {
                Some("reasoning" | "thinking") => join(&mut message.reasoning, field("text"), "\n"),
                _ => join(&mut message.content, field("text"), ""),
            }
        }
        if !only_text {
            message.parts_json = Some(parts_to_json(&self.parts));
        }
        self.stated
    }
}

fn parts_to_json(parts: &[(u32, Vec<(String, String)>)]) -> String {
    let mut json = String::from("[");
    for (position, (_, part)) in parts.iter().enumerate() {
        json.push_str(if position > 0 { ",{" } else { "{" });
        for (at, (key, value)) in part.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            push_json_string(&mut json, key);
            json.push(':');
            push_json_string(&mut json, value);
        }
        json.push('}');
    }
    json.push(']');
    json
}

/// `"12.role"` → `(12, "role")`.
fn split_index(key: &str) -> Option<(u32, &str)> {
    let (index, rest) = key.split_once('.')?;
    Some((index.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::message::messages_to_json;

    fn check(
        take: impl Fn(&mut Attributes<'_>) -> Vec<Stated>,
        entries: &[(&'static str, &'static str)],
        expected: &str,
        rest: Option<&str>,
    ) {
        let entries = entries.iter().map(|(key, value)| ((*key).into(), Value::Str((*value).into()))).collect();
        let mut attributes = Attributes::new(entries);
        let messages: Vec<_> = take(&mut attributes).into_iter().map(|stated| stated.message).collect();
        assert_eq!(messages_to_json(&messages), expected);
        assert_eq!(attributes.to_json().as_deref(), rest);
    }

    #[test]
    fn traceloop_sorts_by_number_and_allows_holes() {
        check(
            |attributes| take_traceloop(attributes, "gen_ai.prompt.", Role::User),
            &[
                ("gen_ai.prompt.10.role", "tool"),
                ("gen_ai.prompt.10.content", "4"),
                ("gen_ai.prompt.10.tool_call_id", "c1"),
                ("gen_ai.prompt.9.role", "assistant"),
                ("gen_ai.prompt.9.tool_calls.0.id", "c1"),
                ("gen_ai.prompt.9.tool_calls.0.name", "f"),
                ("gen_ai.prompt.9.tool_calls.0.arguments", "{}"),
                ("gen_ai.prompt.0.content", "\"\""),
                ("gen_ai.prompt.0.odd", "kept"),
                ("gen_ai.prompt.odd", "kept"),
            ],
            r#"[{"role":"user","content":""},{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"4","tool_call_id":"c1"}]"#,
            Some(r#"{"gen_ai.prompt.0.odd":"kept","gen_ai.prompt.odd":"kept"}"#),
        );
    }

    #[test]
    fn openinference_contents_and_calls() {
        check(
            |attributes| take_openinference(attributes, "llm.input_messages.", Role::User),
            &[
                ("llm.input_messages.0.message.role", "user"),
                ("llm.input_messages.0.message.contents.0.message_content.type", "text"),
                ("llm.input_messages.0.message.contents.0.message_content.text", "see"),
                ("llm.input_messages.0.message.contents.1.message_content.type", "image"),
                ("llm.input_messages.0.message.contents.1.message_content.image.image.url", "http://x"),
                ("llm.input_messages.1.message.role", "assistant"),
                ("llm.input_messages.1.message.tool_calls.0.tool_call.function.name", "f"),
                ("llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments", "{}"),
                ("llm.input_messages.1.thought", "hm"),
                ("llm.input_messages.2.message.role", "function"),
                ("llm.input_messages.2.function.0", r#"{"content":"boom","name":"f","call_id":"c1","is_error":true}"#),
                ("llm.input_messages.2.function.1", r#"{"content":"4","name":"g","call_id":"c2","is_error":false}"#),
            ],
            r#"[{"role":"user","content":"see","parts":[{"text":"see","type":"text"},{"image.image.url":"http://x","type":"image"}]},{"role":"assistant","content":"hm","tool_calls":[{"id":null,"type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"boom","name":"f","tool_call_id":"c1","is_error":true},{"role":"tool","content":"4","name":"g","tool_call_id":"c2","is_error":false}]"#,
            None,
        );
    }
}
