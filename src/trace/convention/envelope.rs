//! What frameworks wrap around the arguments and results of tools.

use std::borrow::Cow;

use super::python;
use crate::trace::message::{Role, read_stated};
use crate::trace::object::Object;
use crate::trace::span::Tool;

/// A tool's arguments without LangChain's `input_str` (a Python literal) or Langfuse's `args` and `kwargs`.
/// Nothing but the arguments was there where the second value is true.
pub(super) fn arguments(recorded: &str) -> (Cow<'_, str>, bool) {
    let Some(object) = Object::parse(recorded) else { return (Cow::Borrowed(recorded), true) };
    let only = |known: &[&str]| object.iter().all(|(key, _)| known.contains(&key));
    let is_callback = only(&["input_str", "inputs"]) || object.get("tags").is_some() || object.get("metadata").is_some();
    if let Some(input) = object.text("input_str").filter(|_| is_callback) {
        let inputs = object.get("inputs").filter(|inputs| inputs.get().starts_with('{'));
        let arguments = match inputs {
            Some(inputs) => inputs.get().to_owned(),
            None => python::to_json(&input).unwrap_or_else(|| input.into_owned()),
        };
        return (Cow::Owned(arguments), only(&["input_str", "inputs"]));
    }
    if let Some(keywords) = object.get("kwargs").filter(|_| only(&["args", "kwargs"])) {
        let positional = object.text("args").unwrap_or_default();
        if matches!(positional.as_ref(), "[]" | "") {
            return (Cow::Owned(keywords.get().to_owned()), true);
        }
        if keywords.get() == "{}" {
            return (Cow::Owned(positional.into_owned()), true);
        }
    }
    (Cow::Borrowed(recorded), true)
}

/// Sets a tool's result, and what its envelope says besides: LangChain's tool message (plain, as constructor, in `output`),
/// an MCP result, an exit code. Returns whether nothing else was there.
pub(super) fn set_result(tool: &mut Tool, recorded: &str) -> bool {
    let whole = unwrap(tool, recorded);
    if tool.result.is_none() {
        tool.result = Some(recorded.to_owned());
        return true;
    }
    whole
}

fn unwrap(tool: &mut Tool, recorded: &str) -> bool {
    let Some(object) = Object::parse(recorded) else { return true };
    let only = |known: &[&str]| object.iter().all(|(key, _)| known.contains(&key));
    if let Some(output) = object.get("output").filter(|_| only(&["output", "kwargs"]) && object.get("kwargs").is_some()) {
        let output = crate::trace::message::text::text(output);
        set_result(tool, &output);
        return false;
    }
    // A LangGraph command (a handoff) carries the tool's message in its update.
    let update = object.object("update").filter(|_| object.get("goto").is_some());
    let source = match update.as_ref().and_then(|update| update.get("messages")) {
        Some(messages) => Some(messages.get()),
        None => is_tool_message(&object).then_some(recorded),
    };
    if let Some(source) = source
        && let Ok(stated) = read_stated(source, Role::Tool)
        && let Some(stated) = stated.iter().rfind(|stated| stated.message.role == Role::Tool)
    {
        let message = &stated.message;
        tool.result.clone_from(&message.content);
        tool.result_is_error = tool.result_is_error.or(message.is_error);
        tool.call_id = tool.call_id.take().or_else(|| message.tool_call_id.clone());
        tool.name = tool.name.take().or_else(|| message.name.clone());
        return false;
    }
    if let Some(is_error) = object.parse_field::<bool>("isError").or_else(|| object.parse_field("is_error")) {
        tool.result_is_error = tool.result_is_error.or(Some(is_error));
        if let Some(content) = object.get("content") {
            tool.result = Some(crate::trace::message::result_text(content));
            return only(&["content", "isError", "is_error"]);
        }
    }
    let metadata = object.object("metadata");
    let code = ["exit_code", "exitCode", "returncode", "return_code"]
        .iter()
        .find_map(|key| object.integer(key).or_else(|| metadata.as_ref()?.integer(key)));
    tool.exit_code = tool.exit_code.or(code.and_then(|code| code.try_into().ok()));
    true
}

fn is_tool_message(object: &Object<'_>) -> bool {
    let kind = object.text("type");
    let is_tool = kind.as_deref() == Some("tool");
    let class = object.text("id").is_some_and(|path| path.contains("\"ToolMessage\""));
    is_tool && (object.get("data").is_some() || object.get("content").is_some())
        || class && object.get("kwargs").is_some()
        || object.get("tool_call_id").is_some() && object.get("content").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_unwrapped() {
        for (recorded, expected) in [
            (r#"{"input_str":"{'a': 1}","tags":[],"metadata":{}}"#, r#"{"a":1}"#),
            (r#"{"input_str":"20 / 5"}"#, "20 / 5"),
            (r#"{"args":[],"kwargs":{"a":1}}"#, r#"{"a":1}"#),
            (r#"{"args":["x"],"kwargs":{}}"#, r#"["x"]"#),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            ("20 / 5", "20 / 5"),
        ] {
            assert_eq!(arguments(recorded).0, expected, "{recorded}");
        }
    }

    #[test]
    fn results_are_unwrapped() {
        let message = r#"{"lc":1,"type":"constructor","id":["langchain","schema","messages","ToolMessage"],"kwargs":{"content":"boom","type":"tool","name":"f","tool_call_id":"c1","status":"error"}}"#;
        for (recorded, result, is_error, call_id, exit_code) in [
            ("5.0", "5.0", None, None, None),
            (message, "boom", Some(true), Some("c1"), None),
            (&format!(r#"{{"output": {message}, "kwargs": {{"tags": []}}}}"#), "boom", Some(true), Some("c1"), None),
            (r#"{"output":"5.0","kwargs":{"name":"f"}}"#, "5.0", None, None, None),
            (
                r#"{"type":"tool","data":{"content":"5.0","type":"tool","tool_call_id":"c2","status":"success"}}"#,
                "5.0",
                Some(false),
                Some("c2"),
                None,
            ),
            (
                r#"{"graph":"__parent__","update":{"messages":[{"type":"tool","data":{"content":"Transferred","type":"tool","tool_call_id":"c3","status":"success"}}]},"goto":"b"}"#,
                "Transferred",
                Some(false),
                Some("c3"),
                None,
            ),
            (r#"{"content":[{"type":"text","text":"no such file"}],"isError":true}"#, "no such file", Some(true), None, None),
            (r#"{"stdout":"","exit_code":2}"#, r#"{"stdout":"","exit_code":2}"#, None, None, Some(2)),
            (r#"{"output":"","metadata":{"exit_code":1}}"#, r#"{"output":"","metadata":{"exit_code":1}}"#, None, None, Some(1)),
            (r#"{"output":"5"}"#, r#"{"output":"5"}"#, None, None, None),
        ] {
            let mut tool = Tool::default();
            set_result(&mut tool, recorded);
            assert_eq!(tool.result.as_deref(), Some(result), "{recorded}");
            assert_eq!(
                (tool.result_is_error, tool.call_id.as_deref(), tool.exit_code),
                (is_error, call_id, exit_code),
                "{recorded}"
            );
        }
    }
}
