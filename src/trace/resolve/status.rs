//! What became of a tool call: the ladder of evidence (rule 7.4), and what its arguments and result are worth.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::row::{Evidence, ToolStatus};
use crate::trace::span::{Kind, Span, Status};

/// Exceptions that steer a graph: no failures.
const CONTROL_FLOW: [&str; 4] = ["ParentCommand", "GraphInterrupt", "NodeInterrupt", "GraphBubbleUp"];

/// How frameworks name the tools that hand a conversation to another agent.
const HANDOFF_TOOLS: [&str; 3] = ["transfer_to_", "transfer_back_to_", "handoff_to_"];

/// What is known about one tool call, from its span and from the message that brought its result back.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Clues<'a> {
    pub span: Option<&'a Span>,
    pub name: Option<&'a str>,
    pub result: Option<&'a str>,
    /// An explicit flag beside the result.
    pub is_error: Option<bool>,
}

/// Climbs the ladder: the first rung that says something decides. Ancestors never count; neither does an OK without a result.
pub(super) fn judge(clues: Clues) -> (ToolStatus, Evidence) {
    let tool = clues.span.and_then(|span| span.tool.as_deref());
    if let Some(span) = clues.span {
        let exceptions = tool.map(|tool| tool.exceptions.as_slice()).unwrap_or_default();
        let mut causes = exceptions.iter().chain(&span.error_type).peekable();
        if causes.peek().is_some() && causes.all(|cause| is_control_flow(cause)) {
            return (ToolStatus::Control, Evidence::ControlFlow);
        }
        if span.status == Status::Error || span.error_type.is_some() {
            return (ToolStatus::Error, Evidence::SpanStatus);
        }
    }
    let flag = tool.and_then(|tool| tool.result_is_error);
    let flag = if flag == Some(true) { flag } else { clues.is_error.or(flag) };
    let exit_code = tool.and_then(|tool| tool.exit_code);
    if flag == Some(true) {
        return (ToolStatus::Error, Evidence::ResultFlag);
    }
    if exit_code.is_some_and(|code| code != 0) {
        return (ToolStatus::Error, Evidence::ExitCode);
    }
    if tool.is_some_and(|tool| tool.retry_marker) {
        return (ToolStatus::Error, Evidence::RetryMarker);
    }
    let handoff = clues.span.is_some_and(|span| span.kind == Kind::Handoff) || clues.name.is_some_and(is_handoff_tool);
    let reads_as_error = clues.result.is_some_and(reads_as_error);
    if handoff && !reads_as_error {
        return (ToolStatus::Control, Evidence::ControlFlow);
    }
    if flag == Some(false) {
        return (ToolStatus::Ok, Evidence::ResultFlag);
    }
    if exit_code == Some(0) {
        return (ToolStatus::Ok, Evidence::ExitCode);
    }
    match clues.result {
        Some(_) if reads_as_error => (ToolStatus::Error, Evidence::ResultText),
        Some(_) => (ToolStatus::Ok, Evidence::ResultSeen),
        None => (ToolStatus::Unknown, Evidence::None),
    }
}

pub(super) fn is_handoff_tool(name: &str) -> bool {
    HANDOFF_TOOLS.iter().any(|prefix| name.starts_with(prefix))
}

fn is_control_flow(exception: &str) -> bool {
    CONTROL_FLOW.contains(&exception.rsplit('.').next().unwrap_or(exception))
}

/// Whether a result without any flag is an error message: it begins as one, or it is a JSON object that states an `error`.
fn reads_as_error(result: &str) -> bool {
    static ERROR: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"(?x)^[\s"']* (?:
                (?i: error | exception | traceback | failed | an\ error\ occurred ) \b
              | [A-Za-z_][\w.]* (?: Error | Exception ) \b
            )"#,
        )
        .expect("a fixed expression")
    });
    if ERROR.is_match(result) {
        return true;
    }
    if !result.trim_start().starts_with('{') {
        return false;
    }
    match serde_json::from_str::<Value>(result) {
        Ok(value) => match value.get("error") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        },
        Err(_) => false,
    }
}

/// Nothing came back: no text, an empty list, an empty object or null.
pub(super) fn is_empty_result(result: &str) -> bool {
    matches!(result.trim(), "" | "[]" | "{}" | "null" | "None" | "\"\"" | "''" | "()")
}

/// Whether the arguments that a model wrote are a JSON object; `None` where it wrote none.
pub(super) fn valid_arguments(arguments: &str) -> Option<bool> {
    if arguments.trim().is_empty() {
        return None;
    }
    Some(matches!(serde_json::from_str::<Value>(arguments), Ok(Value::Object(_))))
}

/// Hash of a tool's name and its arguments, the same for any order of keys and any white space.
pub(super) fn arguments_hash(name: &str, arguments: &str) -> String {
    let mut text = format!("{name}\0");
    match serde_json::from_str::<Value>(arguments) {
        Ok(value) => push_canonical(&mut text, &value),
        Err(_) => text.push_str(arguments.trim()),
    }
    short_hex(&blake3::hash(text.as_bytes()))
}

/// Depth is bounded: the parser refuses JSON nested deeper than 128.
fn push_canonical(text: &mut String, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            text.push('{');
            for (n, key) in keys.into_iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                push_canonical(text, &map[key]);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                push_canonical(text, item);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

/// 16 hex digits: enough to tell the states and calls of one batch apart.
pub(super) fn short_hex(hash: &blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::span::Tool;

    fn span(status: Status, exceptions: &[&str], result_is_error: Option<bool>) -> Span {
        let exceptions = exceptions.iter().map(|name| (*name).to_owned()).collect();
        Span {
            kind: Kind::Tool,
            status,
            tool: Some(Box::new(Tool { exceptions, result_is_error, ..Tool::default() })),
            ..Span::default()
        }
    }

    #[test]
    fn first_rung_that_says_something_decides() {
        let check = |span: Span, result: Option<&str>, expected: (ToolStatus, Evidence)| {
            assert_eq!(judge(Clues { span: Some(&span), result, ..Clues::default() }), expected, "{span:?} {result:?}");
        };
        check(span(Status::Error, &[], None), Some("4"), (ToolStatus::Error, Evidence::SpanStatus));
        check(span(Status::Error, &["langgraph.errors.ParentCommand"], None), None, (ToolStatus::Control, Evidence::ControlFlow));
        check(span(Status::Ok, &["GraphInterrupt"], None), None, (ToolStatus::Control, Evidence::ControlFlow));
        check(span(Status::Error, &["ParentCommand", "ValueError"], None), None, (ToolStatus::Error, Evidence::SpanStatus));
        check(span(Status::Ok, &[], Some(true)), Some("4"), (ToolStatus::Error, Evidence::ResultFlag));
        check(span(Status::Ok, &[], Some(false)), Some("Error rates fell"), (ToolStatus::Ok, Evidence::ResultFlag));
        check(
            span(Status::Ok, &[], None),
            Some("ZeroDivisionError: division by zero"),
            (ToolStatus::Error, Evidence::ResultText),
        );
        check(span(Status::Ok, &[], None), Some(r#"{"error": "no such table"}"#), (ToolStatus::Error, Evidence::ResultText));
        check(span(Status::Ok, &[], None), Some(r#"{"error": null, "rows": 3}"#), (ToolStatus::Ok, Evidence::ResultSeen));
        check(span(Status::Ok, &[], None), Some("no errors"), (ToolStatus::Ok, Evidence::ResultSeen));
        check(span(Status::Ok, &[], None), None, (ToolStatus::Unknown, Evidence::None));
    }

    #[test]
    fn order_of_keys_does_not_change_the_hash() {
        assert_eq!(
            arguments_hash("f", r#"{"b": [1, {"y":0,"x":1}], "a": 1}"#),
            arguments_hash("f", r#"{"a":1,"b":[1,{"x":1,"y":0}]}"#)
        );
        assert_ne!(arguments_hash("f", r#"{"a":1}"#), arguments_hash("g", r#"{"a":1}"#));
        assert_ne!(arguments_hash("f", r#"{"a":1}"#), arguments_hash("f", r#"{"a":"1"}"#));
    }
}
