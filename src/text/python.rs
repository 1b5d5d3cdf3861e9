//! How Python writes values: chat templates were made for it, and a prompt has to be the same text to the last character.

use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

/// A JSON value as templates see it.
pub fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => values(items),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, item)| (key.as_str(), value(item)))),
    }
}

/// A list of JSON values as templates see it.
pub fn values(items: &[Json]) -> Value {
    items.iter().map(value).collect()
}

/// `str(value)`: what `{{ value }}` prints.
pub fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    let items = |value: &Value| value.try_iter().map(Iterator::collect::<Vec<Value>>).unwrap_or_default();
    match value.kind() {
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            format!("[{}]", items(value).iter().map(repr).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Map => {
            let pair = |key: &Value| format!("{}: {}", repr(key), repr(&value.get_item(key).unwrap_or_default()));
            format!("{{{}}}", items(value).iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// A number in Python's shortest form: whole numbers as they are, floats with a point or an exponent of at least two digits.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => "nan".to_owned(),
        Ok(float) if float.is_infinite() => if float > 0.0 { "inf" } else { "-inf" }.to_owned(),
        Ok(float) => shortest(float),
        Err(_) => value.to_string(),
    }
}

/// Rust and Python change to an exponent at the same sizes, and write it differently: `1e16` and `1e+16`, `1e-5` and `1e-05`.
fn shortest(float: f64) -> String {
    let text = format!("{float:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || ('\u{7f}'..'\u{a0}').contains(&c) => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// What `json.dumps` is told.
#[derive(Debug, Clone)]
pub struct Dumps {
    pub ensure_ascii: bool,
    /// Spaces of one level; `None` writes one line.
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

impl Default for Dumps {
    fn default() -> Dumps {
        Dumps {
            ensure_ascii: false,
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
        }
    }
}

impl Dumps {
    /// `json.dumps(value, ...)`. What is not defined cannot be written, as in Python.
    pub fn dump(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.push(value, 0, &mut out)?;
        Ok(out)
    }

    fn push(&self, value: &Value, level: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(match number(value).as_str() {
                "nan" => "NaN",
                "inf" => "Infinity",
                "-inf" => "-Infinity",
                plain => plain,
            }),
            ValueKind::String => self.push_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.push_items('[', ']', &items, level, out, |item, out| self.push(item, level + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                }
                self.push_items('{', '}', &keys, level, out, |key, out| {
                    self.push_string(&key_text(key), out);
                    out.push_str(&self.key_separator);
                    self.push(&value.get_item(key)?, level + 1, out)
                })?;
            }
            other => {
                let message = format!("object of type {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn push_items(
        &self,
        open: char,
        close: char,
        items: &[Value],
        level: usize,
        out: &mut String,
        mut push: impl FnMut(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |level: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * level));
            }
        };
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            line(level + 1, out);
            push(item, out)?;
        }
        if !items.is_empty() {
            line(level, out);
        }
        out.push(close);
        Ok(())
    }

    fn push_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
                c if self.ensure_ascii && !c.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Keys that are no text are written as JSON writes such values.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::None => "null".to_owned(),
        _ => text(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        super::value(&serde_json::from_str(json).unwrap())
    }

    /// Expected texts: CPython 3.11.
    #[test]
    fn values_print_as_in_python() {
        for (json, expected) in [
            ("null", "None"),
            ("true", "True"),
            ("1.0", "1.0"),
            ("1e16", "1e+16"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("1e300", "1e+300"),
            ("-7", "-7"),
            (r#"{"a": [1, "it's", "a \"b\"", null], "b": {}}"#, r#"{'a': [1, "it's", 'a "b"', None], 'b': {}}"#),
            (r#"["\n\u0001\\é", "'\""]"#, r#"['\n\x01\\é', '\'"']"#),
            (r#""plain""#, "plain"),
        ] {
            assert_eq!(text(&value(json)), expected, "{json}");
        }
    }

    #[test]
    fn json_is_written_as_in_python() {
        let given = value(r#"{"b": [1, 2.0, {}], "a": "<é\n\u0001😀>", "c": [], "d": true}"#);
        assert_eq!(Dumps::default().dump(&given).unwrap(), r#"{"b": [1, 2.0, {}], "a": "<é\n\u0001😀>", "c": [], "d": true}"#);
        let ascii = Dumps { ensure_ascii: true, sort_keys: true, ..Dumps::default() };
        assert_eq!(
            ascii.dump(&given).unwrap(),
            r#"{"a": "<\u00e9\n\u0001\ud83d\ude00>", "b": [1, 2.0, {}], "c": [], "d": true}"#
        );
        let indented = Dumps { indent: Some(2), item_separator: ",".to_owned(), ..Dumps::default() };
        let expected =
            "{\n  \"b\": [\n    1,\n    2.0,\n    {}\n  ],\n  \"a\": \"<é\\n\\u0001😀>\",\n  \"c\": [],\n  \"d\": true\n}";
        assert_eq!(indented.dump(&given).unwrap(), expected);
        assert!(Dumps::default().dump(&Value::UNDEFINED).is_err());
    }
}
