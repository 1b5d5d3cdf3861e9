//! One value, and strings as JSON writes them.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::trace::message::text::{compact, string};
use crate::trace::scan;

/// One attribute value. Arrays and maps are kept as compact JSON text; a list of numbers as it was written, since most of them are token ids
/// that no table has as text.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Str(Cow<'a, str>),
    Int(i64),
    Double(f64),
    Bool(bool),
    /// Base64, as OTLP JSON writes bytes.
    Bytes(Cow<'a, str>),
    /// An array or a map.
    Json(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// A JSON value: a string decoded, a number that fits or a boolean as such, anything else as compact JSON text.
    pub fn from_json(json: &'a str) -> Self {
        match json.as_bytes().first() {
            Some(b'"') => string(json).map_or(Value::Null, Value::Str),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') | None => Value::Null,
            Some(b'[') if is_list_of_numbers(json) => Value::Json(Cow::Borrowed(json)),
            Some(b'{' | b'[') => Value::Json(compact(json)),
            Some(_) => match (json.parse(), json.parse()) {
                (Ok(number), _) => Value::Int(number),
                (_, Ok(number)) if json.contains(['.', 'e', 'E']) => Value::Double(number),
                _ => Value::Json(Cow::Borrowed(json)),
            },
        }
    }

    /// The value without a tie to the text that it was read from.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Int(number) => Value::Int(number),
            Value::Double(number) => Value::Double(number),
            Value::Bool(flag) => Value::Bool(flag),
            Value::Str(text) => Value::Str(Cow::Owned(text.into_owned())),
            Value::Bytes(text) => Value::Bytes(Cow::Owned(text.into_owned())),
            Value::Json(text) => Value::Json(Cow::Owned(text.into_owned())),
        }
    }

    /// The text of an object, or of a string that holds one.
    pub(super) fn object_text(&self) -> Option<&str> {
        match self {
            Value::Json(text) | Value::Str(text) if text.starts_with('{') && text.ends_with('}') => Some(text),
            _ => None,
        }
    }

    /// The JSON text of each element of an array, or of a string that holds one; empty for anything else.
    pub fn elements(&self) -> Vec<&str> {
        match self {
            Value::Json(text) | Value::Str(text) if text.starts_with('[') => serde_json::from_str::<Vec<&RawValue>>(text)
                .map_or_else(|_| Vec::new(), |items| items.into_iter().map(RawValue::get).collect()),
            _ => Vec::new(),
        }
    }

    /// A list of whole numbers, or a string that holds one.
    pub fn as_ints(&self) -> Option<Vec<i32>> {
        match self {
            Value::Json(text) | Value::Str(text) => scan::integers(text),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Value::Null => return None,
            Value::Json(text) if is_list_of_numbers(text) => compact(text),
            Value::Str(text) | Value::Bytes(text) | Value::Json(text) => Cow::Borrowed(text.as_ref()),
            Value::Int(number) => Cow::Owned(number.to_string()),
            Value::Double(number) => Cow::Owned(number.to_string()),
            Value::Bool(flag) => Cow::Borrowed(if *flag { "true" } else { "false" }),
        })
    }

    pub fn into_text(self) -> Option<String> {
        match self {
            Value::Json(text) if is_list_of_numbers(&text) => Some(compact(&text).into_owned()),
            Value::Str(text) | Value::Bytes(text) | Value::Json(text) => Some(text.into_owned()),
            other => other.as_text().map(Cow::into_owned),
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Double(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => Some(*number as i64),
            Value::Str(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub fn as_double(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Double(number) => Some(*number),
            Value::Str(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            Value::Str(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::Str(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    /// Appends the value as JSON. Doubles that JSON cannot hold become strings (`"NaN"`).
    pub fn push_json(&self, json: &mut String) {
        match self {
            Value::Null => json.push_str("null"),
            Value::Str(text) | Value::Bytes(text) => push_json_string(json, text),
            Value::Json(text) if is_list_of_numbers(text) => json.push_str(&compact(text)),
            Value::Json(text) => json.push_str(text),
            Value::Int(number) => json.push_str(&number.to_string()),
            Value::Bool(flag) => json.push_str(if *flag { "true" } else { "false" }),
            Value::Double(number) => match serde_json::Number::from_f64(*number) {
                Some(number) => json.push_str(&number.to_string()),
                None => push_json_string(json, &number.to_string()),
            },
        }
    }
}

/// Whether an array's JSON begins with a number and has no strings, arrays or maps.
fn is_list_of_numbers(json: &str) -> bool {
    let bytes = json.as_bytes();
    bytes.first() == Some(&b'[')
        && matches!(bytes.get(1), Some(b'0'..=b'9' | b'-'))
        && memchr::memchr3(b'"', b'[', b'{', &bytes[1..]).is_none()
}

/// Appends a string as a JSON string, quotes included.
pub fn push_json_string(json: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    json.reserve(text.len() + 2);
    json.push('"');
    let (mut copied, mut from) = (0, 0);
    while let Some(at) = next_escape(text.as_bytes(), from) {
        json.push_str(&text[copied..at]);
        let byte = text.as_bytes()[at];
        from = at + 1;
        copied = from;
        match byte {
            // The character itself follows its backslash: it is copied with the text behind it.
            b'"' | b'\\' => {
                json.push('\\');
                copied = at;
            }
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            0x08 => json.push_str("\\b"),
            0x0c => json.push_str("\\f"),
            _ => {
                json.push_str("\\u00");
                json.push(char::from(HEX[usize::from(byte >> 4)]));
                json.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    json.push_str(&text[copied..]);
    json.push('"');
}

/// Place of the first byte, from `from` on, that JSON strings must escape: a quote, a backslash or a control character.
/// Eight bytes are looked at together: this is where much of the time of reading goes.
pub(in crate::trace) fn next_escape(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // The high bit of every byte that is zero; of bytes above a zero byte too, at times, so only the lowest counts.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = from;
    while let Some((chunk, _)) = bytes.get(at..)?.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = controls | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    bytes[at..].iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\').map(|step| at + step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_json_says() {
        let all: String = (0u8..0x80).map(char::from).chain("äé\u{1f600}".chars()).collect();
        // Every character at every place of a word of eight bytes.
        for start in 0..16 {
            for character in all.chars() {
                let text = format!("{}{character}{all}\"", "x".repeat(start));
                let mut json = String::new();
                push_json_string(&mut json, &text);
                assert_eq!(json, serde_json::to_string(&text).unwrap());
            }
        }
    }
}
