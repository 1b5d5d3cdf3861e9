//! JSON text that its writer almost got right: what JavaScript and Python write and strict parsers refuse.

use super::keys::string_end;

/// The text with lone halves of surrogate pairs (`\ud83d`, where a writer cut a string in the middle of a character) replaced by
/// U+FFFD, and Python's bare `NaN`, `Infinity` and `-Infinity` put in quotes. `None` where there is nothing to mend.
pub fn mend(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut mended = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at + 1)?;
                copied = mend_surrogates(text, at + 1, end, copied, &mut mended);
                at = end + 1;
            }
            b'N' | b'I' | b'-' => {
                let name = ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| text[at..].starts_with(name));
                let Some(name) = name else {
                    at += 1;
                    continue;
                };
                mended.push_str(&text[copied..at]);
                mended.push('"');
                mended.push_str(name);
                mended.push('"');
                at += name.len();
                copied = at;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return None;
    }
    mended.push_str(&text[copied..]);
    Some(mended)
}

/// Mends one string, from `start` to `end`; what stands before `copied` is in `mended` already. Returns the new `copied`.
fn mend_surrogates(text: &str, start: usize, end: usize, mut copied: usize, mended: &mut String) -> usize {
    const ESCAPE_BYTES: usize = "\\ud800".len();
    let bytes = text.as_bytes();
    let mut at = start;
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..end]) {
        at += found;
        match surrogate(&bytes[at..end]) {
            None => at += 2,
            Some(Half::High) if surrogate(&bytes[at + ESCAPE_BYTES..end]) == Some(Half::Low) => at += 2 * ESCAPE_BYTES,
            Some(_) => {
                mended.push_str(&text[copied..at]);
                mended.push_str("\\ufffd");
                at += ESCAPE_BYTES;
                copied = at;
            }
        }
        if at >= end {
            break;
        }
    }
    copied
}

#[derive(PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// Which half of a surrogate pair the text begins with, escaped.
fn surrogate(bytes: &[u8]) -> Option<Half> {
    match bytes {
        [b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', x, y, ..]
            if x.is_ascii_hexdigit() && y.is_ascii_hexdigit() =>
        {
            Some(Half::High)
        }
        [b'\\', b'u', b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', x, y, ..] if x.is_ascii_hexdigit() && y.is_ascii_hexdigit() => {
            Some(Half::Low)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_is_changed() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(mend(text).as_deref(), expected, "{text}");
        check(r#"{"a":"\ud83d"}"#, Some(r#"{"a":"\ufffd"}"#));
        check(r#"{"a":"x\ud83d\ud83d\ude00\uDE00\n"}"#, Some(r#"{"a":"x\ufffd\ud83d\ude00\ufffd\n"}"#));
        check(r#"{"a":"\\ud83d \ud83d\ude00 NaN"}"#, None);
        check(r#"{"a":NaN,"b":[-Infinity,Infinity,-1]}"#, Some(r#"{"a":"NaN","b":["-Infinity","Infinity",-1]}"#));
        check(r#"{"a":"\ud83d"#, None);
        check("", None);
    }
}
