//! Tool calls in the text of a response: each family of models has its own way of writing them.

use serde::Deserialize;
use serde_json::value::RawValue;

/// How a model writes that it wants a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>`, as many as wanted, text around them: Hermes, Qwen. Read besides: a list of
    /// calls in one pair of tags, as SmolLM2 writes it.
    Hermes,
    /// The whole response is `{"name": ..., "parameters": ...}`, several separated by `; `, or follows `<|python_tag|>`: Llama 3.
    Llama3,
}

/// A call as a response asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedCall {
    pub name: String,
    /// JSON object, as the model wrote it.
    pub arguments: String,
}

/// What a response says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The text outside of thinking and calls, blank lines towards them taken off; `None` where there is none.
    pub content: Option<String>,
    /// What stands between `<think>` and `</think>`, for models that write so.
    pub reasoning: Option<String>,
    pub tool_calls: Vec<ParsedCall>,
    /// What began like a call and is none, as the model wrote it; it is in `content` too.
    pub malformed: Vec<String>,
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const PYTHON_TAG: &str = "<|python_tag|>";
const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";

impl ToolFormat {
    /// The format that a chat template writes calls in; Hermes where it says nothing, which is what such a template is then given.
    pub fn of_template(source: &str) -> ToolFormat {
        let llama = source.contains(PYTHON_TAG) || (source.contains("ipython") && source.contains("\"parameters\": "));
        if llama && !source.contains(OPEN) { ToolFormat::Llama3 } else { ToolFormat::Hermes }
    }

    /// Reads a response, special tokens that end it taken off.
    pub fn parse(self, text: &str) -> Parsed {
        match self {
            ToolFormat::Hermes => parse_hermes(text),
            ToolFormat::Llama3 => parse_llama(text),
        }
    }

    /// Calls as the model would write them.
    ///
    /// * `calls`: name, and arguments as JSON; arguments that are none are written as they are.
    pub fn write(self, calls: &[ParsedCall]) -> String {
        let written = calls.iter().map(|ParsedCall { name, arguments }| {
            let (before, after) = self.around(name);
            before + arguments + &after
        });
        written.collect::<Vec<_>>().join(self.separator())
    }

    /// What stands before and after the arguments of a call.
    pub fn around(self, name: &str) -> (String, String) {
        let name = serde_json::Value::from(name);
        match self {
            ToolFormat::Hermes => (format!("{OPEN}\n{{\"name\": {name}, \"arguments\": "), format!("}}\n{CLOSE}")),
            ToolFormat::Llama3 => (format!("{{\"name\": {name}, \"parameters\": "), "}".to_owned()),
        }
    }

    /// What stands between two calls.
    pub fn separator(self) -> &'static str {
        match self {
            ToolFormat::Hermes => "\n",
            ToolFormat::Llama3 => "; ",
        }
    }

    /// Bytes at the beginning of a response that is still being written which are text for certain: what follows is a call, or may become
    /// one. A server streams so much as content and holds back the rest until the end.
    pub fn text_bytes(self, text: &str) -> usize {
        match self {
            ToolFormat::Hermes => text.find(OPEN).unwrap_or_else(|| text.len() - partial_end(text, OPEN)),
            ToolFormat::Llama3 => {
                let start = text.len() - text.trim_start().len();
                let begun = &text[start..];
                match begun.starts_with('{') || begun.is_empty() {
                    true => 0,
                    false => begun.find(PYTHON_TAG).map_or_else(|| text.len() - partial_end(text, PYTHON_TAG), |at| start + at),
                }
            }
        }
    }
}

/// Bytes at the end of a text that are a beginning of the marker.
fn partial_end(text: &str, marker: &str) -> usize {
    (1..marker.len()).rev().find(|&length| text.ends_with(&marker[..length])).unwrap_or(0)
}

/// Splits off what a model thought before it answered. Templates open the thought themselves as often as the model does.
pub fn split_reasoning(text: &str) -> (Option<String>, &str) {
    let Some((thought, rest)) = text.split_once(THINK_CLOSE) else {
        return match text.trim_start().strip_prefix(THINK_OPEN) {
            // Cut off in the middle of the thought.
            Some(thought) => (Some(thought.trim_matches('\n').to_owned()), ""),
            None => (None, text),
        };
    };
    let thought = thought.split_once(THINK_OPEN).map_or(thought, |(_, thought)| thought);
    (Some(thought.trim_matches('\n').to_owned()), rest.trim_start_matches('\n'))
}

fn parse_hermes(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut content = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        push_text(&mut content, before);
        // A model that stops right after the call may leave the closing tag out.
        let (body, following, closed) = match after.split_once(CLOSE) {
            Some((body, following)) => (body, following, true),
            None => (after, "", false),
        };
        match read_calls(body) {
            Some(calls) => parsed.tool_calls.extend(calls),
            None => {
                let whole = format!("{OPEN}{body}{}", if closed { CLOSE } else { "" });
                push_text(&mut content, &whole);
                parsed.malformed.push(whole);
            }
        }
        rest = following;
    }
    let last_is_all = content.is_empty() && parsed.tool_calls.is_empty();
    if last_is_all {
        content.push_str(rest);
    } else {
        push_text(&mut content, rest);
    }
    parsed.content = Some(content).filter(|content| !content.trim().is_empty() || (last_is_all && !content.is_empty()));
    parsed
}

/// Texts around calls are joined by a line break; blank ones are none.
fn push_text(content: &mut String, text: &str) {
    let text = text.trim_matches('\n');
    if text.trim().is_empty() {
        return;
    }
    if !content.is_empty() {
        content.push('\n');
    }
    content.push_str(text);
}

fn parse_llama(text: &str) -> Parsed {
    let as_text = |malformed: Vec<String>| Parsed {
        content: Some(text.to_owned()).filter(|text| !text.is_empty()),
        malformed,
        ..Parsed::default()
    };
    let (before, body, tagged) = match text.split_once(PYTHON_TAG) {
        Some((before, body)) => (before.trim(), body.trim(), true),
        None => ("", text.trim(), false),
    };
    if !tagged && !body.starts_with('{') {
        return as_text(Vec::new());
    }
    let calls = read_llama_calls(body).or_else(|| if tagged { read_builtin_call(body).map(|call| vec![call]) } else { None });
    match calls {
        Some(tool_calls) => {
            Parsed { content: Some(before.to_owned()).filter(|text| !text.is_empty()), tool_calls, ..Parsed::default() }
        }
        // An answer may be JSON of its own: only what names a function was meant as a call.
        None if tagged || body.contains("\"name\"") && body.contains("\"parameters\"") => as_text(vec![text.to_owned()]),
        None => as_text(Vec::new()),
    }
}

#[derive(Deserialize)]
struct Call<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

/// One call, or a list of them.
fn read_calls(body: &str) -> Option<Vec<ParsedCall>> {
    let body = body.trim();
    if body.starts_with('[') {
        let calls: Vec<Call<'_>> = serde_json::from_str(body).ok()?;
        return calls.into_iter().map(read_call).collect();
    }
    Some(vec![read_call(serde_json::from_str(body).ok()?)?])
}

fn read_call(call: Call<'_>) -> Option<ParsedCall> {
    let Call { name, arguments } = call;
    let raw = arguments.map_or("{}", RawValue::get);
    let arguments = match raw.as_bytes().first()? {
        b'{' => raw.to_owned(),
        b'n' => "{}".to_owned(),
        // Arguments in quotes, as APIs write them.
        b'"' => serde_json::from_str::<String>(raw).ok().filter(|text| is_object(text))?,
        _ => return None,
    };
    (!name.is_empty()).then_some(ParsedCall { name, arguments })
}

fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Objects one after the other, between them white space and semicolons. Each has to state its parameters.
fn read_llama_calls(body: &str) -> Option<Vec<ParsedCall>> {
    let mut calls = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let mut objects = serde_json::Deserializer::from_str(rest).into_iter::<Call<'_>>();
        let call = objects.next()?.ok()?;
        call.arguments?;
        calls.push(read_call(call)?);
        rest = rest[objects.byte_offset()..].trim_start_matches(|c: char| c.is_whitespace() || c == ';');
    }
    (!calls.is_empty()).then_some(calls)
}

/// `name.call(key="value", ...)`, the form of Llama 3's built-in tools.
fn read_builtin_call(body: &str) -> Option<ParsedCall> {
    let (name, arguments) = body.strip_suffix(')')?.split_once(".call(")?;
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name(name) {
        return None;
    }
    let mut object = serde_json::Map::new();
    let mut rest = arguments.trim();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        let mut values = serde_json::Deserializer::from_str(value).into_iter::<serde_json::Value>();
        let read = values.next()?.ok()?;
        if !is_name(key.trim()) {
            return None;
        }
        object.insert(key.trim().to_owned(), read);
        rest = value[values.byte_offset()..].trim_start_matches([',', ' ']);
    }
    Some(ParsedCall { name: name.to_owned(), arguments: serde_json::Value::Object(object).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(format: ToolFormat, text: &str, content: Option<&str>, calls: &[(&str, &str)], malformed: &[&str]) {
        let calls = calls.iter().map(|(name, arguments)| ParsedCall { name: (*name).into(), arguments: (*arguments).into() });
        let expected = Parsed {
            content: content.map(str::to_owned),
            reasoning: None,
            tool_calls: calls.collect(),
            malformed: malformed.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert_eq!(format.parse(text), expected, "{text}");
    }

    #[test]
    fn hermes() {
        let check =
            |text: &str, content, calls: &[_], malformed: &[_]| check(ToolFormat::Hermes, text, content, calls, malformed);
        check("", None, &[], &[]);
        check(" plain <text> \n", Some(" plain <text> \n"), &[], &[]);
        check("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.0}}\n</tool_call>", None, &[("f", "{\"a\": 1.0}")], &[]);
        check(
            "Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {\"b\": \"}\"}}\n</tool_call>\n",
            Some("Let me see."),
            &[("f", "{}"), ("g", "{\"b\": \"}\"}")],
            &[],
        );
        // SmolLM2's list, arguments under the other name, in quotes, and none at all.
        check(
            "<tool_call>[{\"name\": \"f\", \"arguments\": {\"a\": [1]}}, {\"name\": \"g\", \"parameters\": \"{\\\"b\\\": 2}\"}, {\"name\": \"h\"}]</tool_call>",
            None,
            &[("f", "{\"a\": [1]}"), ("g", "{\"b\": 2}"), ("h", "{}")],
            &[],
        );
        check("<tool_call>[]</tool_call>", None, &[], &[]);
        check("<tool_call>\n{\"name\": \"f\", \"arguments\": {}}", None, &[("f", "{}")], &[]);
        for broken in [
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": }}\n</tool_call>",
            "<tool_call>{\"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"argu",
            "<tool_call></tool_call>",
        ] {
            check(broken, Some(broken), &[], &[broken]);
        }
        check(
            "<tool_call>x</tool_call>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
            Some("<tool_call>x</tool_call>"),
            &[("f", "{}")],
            &["<tool_call>x</tool_call>"],
        );
    }

    #[test]
    fn llama() {
        let check =
            |text: &str, content, calls: &[_], malformed: &[_]| check(ToolFormat::Llama3, text, content, calls, malformed);
        check("It is {\"name\": 1}.", Some("It is {\"name\": 1}."), &[], &[]);
        check("{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}", None, &[("f", "{\"a\": \"b\"}")], &[]);
        check(
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"x\": 1}}",
            None,
            &[("f", "{}"), ("g", "{\"x\": 1}")],
            &[],
        );
        check(
            "<|python_tag|>brave_search.call(query=\"a, b\", n=2)",
            None,
            &[("brave_search", r#"{"query":"a, b","n":2}"#)],
            &[],
        );
        // JSON that answers is no call.
        check("{\"answer\": 4}", Some("{\"answer\": 4}"), &[], &[]);
        check("{\"name\": \"Ann\", \"age\": 4}", Some("{\"name\": \"Ann\", \"age\": 4}"), &[], &[]);
        let broken = "{\"name\": \"f\", \"parameters\": {\"a\": }}";
        check(broken, Some(broken), &[], &[broken]);
        check("<|python_tag|>print(1)", Some("<|python_tag|>print(1)"), &[], &["<|python_tag|>print(1)"]);
    }

    #[test]
    fn what_may_become_a_call_is_held_back() {
        for (format, text, expected) in [
            (ToolFormat::Hermes, "abc", 3),
            (ToolFormat::Hermes, "abc<tool", 3),
            (ToolFormat::Hermes, "a<b", 3),
            (ToolFormat::Hermes, "ab<tool_call>{", 2),
            (ToolFormat::Hermes, "<", 0),
            (ToolFormat::Llama3, "", 0),
            (ToolFormat::Llama3, "  {", 0),
            (ToolFormat::Llama3, "It is {", 7),
            (ToolFormat::Llama3, "é<|py", 2),
        ] {
            assert_eq!(format.text_bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn thoughts_stand_apart() {
        for (text, reasoning, rest) in [
            ("plain", None, "plain"),
            ("<think>\nhm\n</think>\n\nyes", Some("hm"), "yes"),
            ("hm\n</think>\n\nyes", Some("hm"), "yes"),
            ("<think>\n\n</think>\n\nyes", Some(""), "yes"),
            ("<think>\nhm", Some("hm"), ""),
        ] {
            assert_eq!(split_reasoning(text), (reasoning.map(str::to_owned), rest), "{text}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            // Marks of the formats themselves are no text that a call can hold in every format: a model writes none of them.
            "[^<>|]{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map("[a-z_]{1,6}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn calls_are_read_as_they_were_written(
            names in proptest::collection::vec("[a-zA-Z_][a-zA-Z0-9_.-]{0,12}", 1..4),
            values in proptest::collection::vec(proptest::collection::btree_map("[a-z_]{1,6}", json(), 0..4), 4),
            content in "[a-zA-Z .,{}\"]{0,20}",
        ) {
            let arguments = values.into_iter().map(|map| serde_json::Value::Object(map.into_iter().collect()).to_string());
            let calls: Vec<ParsedCall> =
                names.into_iter().zip(arguments).map(|(name, arguments)| ParsedCall { name, arguments }).collect();
            for format in [ToolFormat::Hermes, ToolFormat::Llama3] {
                let written = format.write(&calls);
                prop_assert_eq!(format.text_bytes(&written), 0);
                let parsed = format.parse(&written);
                prop_assert_eq!((&parsed.content, parsed.malformed.len()), (&None, 0));
                prop_assert_eq!(&parsed.tool_calls, &calls);
            }
            let content = content.trim().to_owned();
            let parsed = ToolFormat::Hermes.parse(&format!("{content}\n{}", ToolFormat::Hermes.write(&calls)));
            prop_assert_eq!(parsed.content, Some(content).filter(|content| !content.is_empty()));
            prop_assert_eq!(&parsed.tool_calls, &calls);
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,40}|(<tool_call>|</tool_call>|\\{|\\}|\"name\"|:|;|<\\|python_tag\\|>|[a-z ]){0,12}") {
            for format in [ToolFormat::Hermes, ToolFormat::Llama3] {
                let parsed = format.parse(&text);
                prop_assert!(format.text_bytes(&text) <= text.len());
                prop_assert!(text.is_char_boundary(format.text_bytes(&text)));
                // What is no call stays text.
                for malformed in &parsed.malformed {
                    prop_assert!(text.contains(malformed.as_str()));
                    prop_assert!(parsed.content.as_deref().is_some_and(|content| content.contains(malformed.trim_matches('\n'))));
                }
            }
        }
    }
}
