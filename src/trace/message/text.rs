//! JSON values as text: decoded strings, and everything else without its white space.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// A JSON value as text: a string decoded, a number or boolean as written, an array or object as compact JSON.
pub fn text(value: &RawValue) -> Cow<'_, str> {
    let json = value.get();
    match string(json) {
        Some(text) => text,
        None => compact(json),
    }
}

/// A JSON string decoded; `None` for any other value.
pub fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    // A lone surrogate (`"\ud800"`) is no Rust text: such a string stays as it was escaped.
    Some(serde_json::from_str::<String>(json).map_or(Cow::Borrowed(inner), Cow::Owned))
}

/// JSON without the white space between its tokens. Numbers, escapes and the order of keys stay as they are.
pub fn compact(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    if memchr::memchr(b'"', bytes).is_none() {
        return without_space(json);
    }
    let mut kept: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b' ' | b'\n' | b'\r' | b'\t' => {
                let kept = kept.get_or_insert_with(|| String::with_capacity(json.len()));
                kept.push_str(&json[copied..at]);
                at += 1;
                copied = at;
            }
            _ => at += 1,
        }
    }
    match kept {
        Some(mut kept) => {
            kept.push_str(&json[copied..]);
            Cow::Owned(kept)
        }
        None => Cow::Borrowed(json),
    }
}

/// As [`compact`], of JSON without strings (lists of numbers, mostly): all its white space is between tokens.
fn without_space(json: &str) -> Cow<'_, str> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    if !json.bytes().any(is_space) {
        return Cow::Borrowed(json);
    }
    let mut kept = vec![0; json.len()];
    let mut length = 0;
    for byte in json.bytes() {
        kept[length] = byte;
        length += usize::from(!is_space(byte));
    }
    kept.truncate(length);
    String::from_utf8(kept).map_or(Cow::Borrowed(json), Cow::Owned)
}

/// The place after the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(step) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += step;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_leaves_strings_alone() {
        assert_eq!(compact(r#"{ "a b" : [ 1.50 , "\" x" ] }"#), r#"{"a b":[1.50,"\" x"]}"#);
        assert!(matches!(compact(r#"{"a":" "}"#), Cow::Borrowed(_)));
        assert_eq!(compact("[ 1,\t2 ,\r\n3.5e1 ]"), "[1,2,3.5e1]");
        assert!(matches!(compact("[1,2]"), Cow::Borrowed(_)));
    }

    #[test]
    fn lone_surrogates_stay_escaped() {
        assert_eq!(string(r#""a\ud800""#).as_deref(), Some(r"a\ud800"));
    }
}
