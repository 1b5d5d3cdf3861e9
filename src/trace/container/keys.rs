//! The top-level keys of a JSON record, found without parsing their values: how a record's format is recognised.

use memchr::{memchr2, memchr2_iter};

use super::super::reject::{MAX_DEPTH, Reject};

/// Top-level keys of one JSON object, borrowed from its text. Empty for text that is no object; of broken JSON, the keys before
/// the break.
#[derive(Debug, Default)]
pub struct Keys<'a> {
    /// Key as written (escapes kept), and the text from its value to the end of the record.
    entries: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    /// Looks at the first 64 keys. Linear in the length of the text up to the last of them, except that keys which tell
    /// the format (`resourceSpans`; `rollout_id` with `span_id`) end the search.
    pub fn of(text: &'a str) -> Self {
        const MOST_KEYS: usize = 64;
        let bytes = text.as_bytes();
        let mut keys = Self::default();
        let Some(mut at) = skip_space(bytes, 0).filter(|&at| bytes[at] == b'{').map(|at| at + 1) else { return keys };
        while keys.entries.len() < MOST_KEYS {
            let Some(key_start) = skip_space(bytes, at).filter(|&at| bytes[at] == b'"').map(|at| at + 1) else { break };
            let Some(key_end) = string_end(bytes, key_start) else { break };
            let Some(colon) = skip_space(bytes, key_end + 1).filter(|&at| bytes[at] == b':') else { break };
            let Some(value) = skip_space(bytes, colon + 1) else { break };
            let key = &text[key_start..key_end];
            keys.entries.push((key, &text[value..]));
            if keys.are_decided_by(key) {
                break;
            }
            let Some(comma) = value_end(bytes, value).and_then(|end| skip_space(bytes, end)) else { break };
            if bytes[comma] != b',' {
                break;
            }
            at = comma + 1;
        }
        keys
    }

    /// Whether this key, with those before it, tells the format, so that the rest of the record need not be looked at.
    fn are_decided_by(&self, key: &str) -> bool {
        match key {
            "resourceSpans" | "resourceLogs" => true,
            // A span of Agent Lightning 0.x, or an event of 1.0.
            "span_id" => self.has("rollout_id"),
            "rollout_id" => self.has("event_type"),
            _ => false,
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| *name == key)
    }

    pub fn has_any(&self, keys: &[&str]) -> bool {
        self.entries.iter().any(|(name, _)| keys.contains(name))
    }

    pub fn has_all(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.has(key))
    }

    /// Whether the key is there and its value begins with this byte: `b'['` for an array, `b'{'` for an object, `b'"'` for a
    /// string.
    pub fn begins(&self, key: &str, byte: u8) -> bool {
        self.rest(key).is_some_and(|rest| rest.as_bytes().first() == Some(&byte))
    }

    /// The value of a key, if it is a string without escapes.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        let inside = self.rest(key)?.strip_prefix('"')?;
        let text = &inside[..string_end(inside.as_bytes(), 0)?];
        (!text.contains('\\')).then_some(text)
    }

    /// The keys of a value that is an object.
    pub fn inside(&self, key: &str) -> Keys<'a> {
        self.rest(key).map(Keys::of).unwrap_or_default()
    }

    /// The keys of the first element of a value that is an array.
    pub fn first_of(&self, key: &str) -> Keys<'a> {
        self.rest(key).and_then(|rest| rest.strip_prefix('[')).map(Keys::of).unwrap_or_default()
    }

    /// The first keys, for a message.
    pub fn summary(&self) -> String {
        const SHOWN_KEYS: usize = 8;
        if self.entries.is_empty() {
            return "none".to_owned();
        }
        let mut names: Vec<String> =
            self.entries.iter().take(SHOWN_KEYS).map(|(name, _)| name.chars().take(40).collect()).collect();
        if self.entries.len() > SHOWN_KEYS {
            names.push("…".to_owned());
        }
        names.join(", ")
    }

    fn rest(&self, key: &str) -> Option<&'a str> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, rest)| *rest)
    }
}

/// The reject for text that serde_json refused: too deep where that was the reason, else a syntax error.
pub fn syntax_reject(text: &str, error: serde_json::Error) -> Reject {
    if is_too_deep(text) {
        return Reject::TooDeep;
    }
    // A number without its last digits (`1.`) is no number, whether or not more was to come.
    let last_line = text.rsplit('\n').next().unwrap_or_default();
    let at_end = error.column() >= last_line.len() && error.line() > memchr::memchr_iter(b'\n', text.as_bytes()).count();
    if error.is_eof() || at_end && last_line.ends_with(['.', 'e', 'E', '+', '-']) {
        Reject::Truncated
    } else {
        Reject::Json(error)
    }
}

/// The reject for text that could not be read as a `container`: too deep or broken where that was the reason, else of another
/// shape than it should be.
pub fn parse_reject(text: &str, container: &'static str, error: serde_json::Error) -> Reject {
    match syntax_reject(text, error) {
        Reject::Json(source) if source.is_data() => Reject::Shape { container, source },
        other => other,
    }
}

/// Whether more than `MAX_DEPTH` arrays and objects are open at the deepest place.
pub fn is_too_deep(text: &str) -> bool {
    memchr2_iter(b'{', b'[', text.as_bytes()).nth(MAX_DEPTH).is_some() && depth(text) > MAX_DEPTH
}

/// How many arrays and objects are open at the deepest place. Never recurses.
fn depth(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut deepest, mut at) = (0usize, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => match string_end(bytes, at + 1) {
                Some(end) => at = end,
                None => break,
            },
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// Position of the quote that ends a string whose content begins at `at`.
pub(super) fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Position after the value that begins at `at`.
fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes[at] {
        b'"' => Some(string_end(bytes, at + 1)? + 1),
        b'{' | b'[' => nest_end(bytes, at),
        _ => Some(at + bytes[at..].iter().position(|byte| matches!(byte, b',' | b'}' | b']'))?),
    }
}

/// Position after the bracket that closes the one at `at`.
fn nest_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *bytes.get(at)? {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => at = string_end(bytes, at + 1)?,
            _ => {}
        }
        at += 1;
    }
}

fn skip_space(bytes: &[u8], at: usize) -> Option<usize> {
    Some(at + bytes.get(at..)?.iter().position(|byte| !byte.is_ascii_whitespace())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_outermost_object() {
        let keys = Keys::of(r#" {"a":{"b":[1,"}"]},"c\"d" : "x\\", "e":null,"f":[{}],"g":"text"} "#);
        assert_eq!(keys.summary(), r#"a, c\"d, e, f, g"#);
        assert!(keys.begins("f", b'[') && keys.has_all(&["a", "e"]) && !keys.has("b"));
        assert_eq!(keys.text("g"), Some("text"));
        assert!(keys.inside("a").has("b"));
    }

    #[test]
    fn broken_text_gives_the_keys_before_the_break() {
        for (text, names) in [("", "none"), ("[1]", "none"), (r#"{"a":1,"b"#, "a"), (r#"{"a":"#, "none"), (r#"{"a":{"b"#, "a")] {
            assert_eq!(Keys::of(text).summary(), names, "{text}");
        }
    }

    #[test]
    fn depth_is_counted_outside_strings() {
        assert_eq!(depth(r#"{"a":["[[[",{}]}"#), 3);
        assert_eq!(depth(&"[".repeat(100_000)), 100_000);
        assert!(is_too_deep(&"[".repeat(129)) && !is_too_deep(&"[".repeat(128)) && !is_too_deep(&"[]".repeat(129)));
    }
}
