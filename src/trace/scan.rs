//! JSON looked at as bytes: where the members of an object begin and end, and lists of token ids.
//!
//! A recording of token ids is mostly lists of small numbers, for which a general parser is slow. What is here is strict and gives up
//! (`None`) on whatever it does not know to be right: the caller then asks `serde_json`, which is right, and knows what is wrong.

use super::attributes::next_escape;

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 64;

/// Keys and values of an object, as they are written. With `apart`, the members of the object under that key stand in the second list;
/// where there is something else than an object or null, nothing is given.
///
/// Keys with escapes are given up on, so that each key is the text that it stands for.
pub fn members<'a>(json: &'a str, apart: Option<&str>) -> Option<(Vec<(&'a str, &'a str)>, Vec<(&'a str, &'a str)>)> {
    let scan = Scan { json, bytes: json.as_bytes() };
    let (mut outer, mut inner) = (Vec::with_capacity(16), Vec::new());
    let end = scan.object(scan.space(0), |key, at| {
        if apart == Some(key) && scan.bytes.get(at) == Some(&b'{') {
            inner.reserve(32);
            inner.clear();
            return scan.object(at, |key, at| {
                let end = scan.value(at, 2)?;
                inner.push((key, &json[at..end]));
                Some(end)
            });
        }
        let end = scan.value(at, 1)?;
        if apart == Some(key) {
            // Only null may stand for an object. As a later member of its name it would count, too.
            return (&json[at..end] == "null").then(|| {
                inner.clear();
                end
            });
        }
        outer.push((key, &json[at..end]));
        Some(end)
    })?;
    (scan.space(end) == json.len()).then_some((outer, inner))
}

/// A list of whole numbers.
pub fn integers(json: &str) -> Option<Vec<i32>> {
    plain_integers(json.as_bytes()).or_else(|| serde_json::from_str(json).ok())
}

/// A list of whole numbers of at most eight digits without signs.
fn plain_integers(bytes: &[u8]) -> Option<Vec<i32>> {
    let (b'[', mut rest) = bytes.split_first()? else { return None };
    let mut numbers = Vec::with_capacity(memchr::memchr_iter(b',', rest).count() + 1);
    loop {
        while let [b' ', after @ ..] = rest {
            rest = after;
        }
        let word = first_word(rest);
        let digits = short_number(word)?;
        numbers.push(value_of(word, digits));
        match &rest[digits..] {
            [b',', after @ ..] => rest = after,
            [b']'] => return Some(numbers),
            _ => return None,
        }
    }
}

/// The first eight bytes, the first of them lowest; zeros where there are fewer.
#[inline]
fn first_word(bytes: &[u8]) -> u64 {
    if let Some(chunk) = bytes.first_chunk() {
        return u64::from_le_bytes(*chunk);
    }
    let mut chunk = [0; 8];
    chunk[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(chunk)
}

/// Every byte of a word the same.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Digits that a word begins with, if JSON may have them as a whole number: one to eight, and no zero before others.
#[inline]
fn short_number(word: u64) -> Option<usize> {
    // The upper half of a digit is 3, and stays 3 when 6 is added. What is carried out of a byte is so out of one that is no digit, and
    // changes none before it.
    let other = ((word & each(0xf0)) | ((word.wrapping_add(each(6)) & each(0xf0)) >> 4)) ^ each(0x33);
    let digits = other.trailing_zeros() as usize / 8;
    let leading_zero = word as u8 == b'0' && digits > 1;
    (digits > 0 && !leading_zero).then_some(digits)
}

/// The number that the first `digits` (one to eight) bytes of a word are.
#[inline]
fn value_of(word: u64, digits: usize) -> i32 {
    // In front of fewer than eight digits come zeros. Then neighbours are put together: to pairs, to fours, to all eight.
    let ones = (word << (64 - 8 * digits)) & each(0x0f);
    let pairs = (ones * 10 + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    let eight = (fours * 10_000 + (fours >> 32)) & 0xffff_ffff;
    eight as i32
}

struct Scan<'a> {
    json: &'a str,
    bytes: &'a [u8],
}

impl<'a> Scan<'a> {
    /// The object that begins at `at`; `member` is given each key with the place of its value, and says where that ends. Returns the
    /// place after the object.
    fn object(&self, at: usize, mut member: impl FnMut(&'a str, usize) -> Option<usize>) -> Option<usize> {
        let mut at = self.space(self.byte(at, b'{')?);
        if self.bytes.get(at) == Some(&b'}') {
            return Some(at + 1);
        }
        loop {
            let start = self.byte(at, b'"')?;
            let end = next_escape(self.bytes, start).filter(|end| self.bytes[*end] == b'"')?;
            let colon = self.space(end + 1);
            let value = self.space(self.byte(colon, b':')?);
            at = self.space(member(&self.json[start..end], value)?);
            match self.bytes.get(at)? {
                b',' => at = self.space(at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// The place after the value that begins at `at`.
    fn value(&self, at: usize, depth: usize) -> Option<usize> {
        match self.bytes.get(at)? {
            b'"' => self.string(at + 1),
            b'-' | b'0'..=b'9' => self.number(at),
            b'[' => self.array(at + 1, depth + 1),
            b'{' if depth < MAX_DEPTH => self.object(at, |_, at| self.value(at, depth + 1)),
            b't' => self.word(at, b"true"),
            b'f' => self.word(at, b"false"),
            b'n' => self.word(at, b"null"),
            _ => None,
        }
    }

    fn array(&self, at: usize, depth: usize) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut at = self.space(at);
        if self.bytes.get(at) == Some(&b']') {
            return Some(at + 1);
        }
        loop {
            at = match short_number(first_word(self.bytes.get(at..).unwrap_or_default())) {
                Some(digits) if matches!(self.bytes.get(at + digits), Some(b',' | b']')) => at + digits,
                _ => self.value(at, depth)?,
            };
            if !matches!(self.bytes.get(at)?, b',' | b']') {
                at = self.space(at);
            }
            match self.bytes.get(at)? {
                b',' => at = self.space(at + 1),
                b']' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    fn string(&self, mut at: usize) -> Option<usize> {
        loop {
            at = next_escape(self.bytes, at)?;
            match self.bytes[at] {
                b'"' => return Some(at + 1),
                b'\\' => {
                    at += match self.bytes.get(at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                        b'u' if self.bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
                        _ => return None,
                    };
                }
                _ => return None, // a control character
            }
        }
    }

    fn number(&self, mut at: usize) -> Option<usize> {
        at += usize::from(self.bytes[at] == b'-');
        let whole = self.digits(at)?;
        if self.bytes[at] == b'0' && whole > at + 1 {
            return None;
        }
        at = whole;
        if self.bytes.get(at) == Some(&b'.') {
            at = self.digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(at) {
            let sign = usize::from(matches!(self.bytes.get(at + 1), Some(b'+' | b'-')));
            at = self.digits(at + 1 + sign)?;
        }
        Some(at)
    }

    /// The place after one or more digits.
    fn digits(&self, start: usize) -> Option<usize> {
        let rest = self.bytes.get(start..)?;
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        (count > 0).then_some(start + count)
    }

    fn word(&self, at: usize, word: &[u8]) -> Option<usize> {
        self.bytes[at..].starts_with(word).then_some(at + word.len())
    }

    /// The place after this byte.
    fn byte(&self, at: usize, byte: u8) -> Option<usize> {
        (self.bytes.get(at) == Some(&byte)).then_some(at + 1)
    }

    /// The first place from `at` on that is no white space.
    fn space(&self, mut at: usize) -> usize {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(at) {
            at += 1;
        }
        at
    }
}

/// `serde_json`'s opinion, for tests and fuzz targets.
#[cfg(any(test, fuzzing))]
pub mod second {
    use serde_json::value::RawValue;

    use super::{integers, members};

    /// Whether `serde_json` reads the text as an object, with the members that it finds.
    pub fn expected(json: &str) -> Option<Vec<(String, String)>> {
        struct Members(Vec<(String, String)>);
        impl<'de> serde::Deserialize<'de> for Members {
            fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                struct All;
                impl<'de> serde::de::Visitor<'de> for All {
                    type Value = Members;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                        let mut members = Vec::new();
                        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                            members.push((key, value.get().to_owned()));
                        }
                        Ok(Members(members))
                    }
                }
                source.deserialize_map(All)
            }
        }
        serde_json::from_str::<Members>(json).ok().map(|members| members.0)
    }

    /// Whether what is here reads of a text is what `serde_json` reads.
    pub fn agrees(json: &str) -> bool {
        if integers(json) != serde_json::from_str(json).ok() {
            return false;
        }
        let Some((found, _)) = members(json, None) else { return true };
        let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Some(found) == expected(json)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::second::{agrees, expected};
    use super::*;

    #[test]
    fn members_are_those_that_serde_finds() {
        let right = [
            "{}",
            r#" { "a" : [ 1 , -2.50e+3,0, [ ] ,{ "b":{}} ] , "c":"x\\\"\u00e9" , "d":true,"e":null,"f":false } "#,
            r#"{"a":1,"a":2}"#,
        ];
        for json in right {
            let (found, _) = members(json, None).expect(json);
            let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            assert_eq!(Some(found), expected(json), "{json}");
        }
        let wrong = [
            "",
            "[]",
            "{",
            "{}x",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":-}"#,
            r#"{"a":1e}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[,1]}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12"}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":tru}"#,
            r#"{"a":"}"#,
            r#"{'a':1}"#,
            r#"{"a":+1}"#,
            r#"{"a":.5}"#,
            r#"{"a":[}"#,
        ];
        for json in wrong {
            assert!(members(json, None).is_none() && expected(json).is_none(), "{json}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(members(&deep, None).is_none());
    }

    #[test]
    fn members_under_a_key_stand_apart() {
        let of = |json| members(json, Some("o"));
        assert_eq!(of(r#"{"a":1,"o":{"b": "x"},"c":[2]}"#), Some((vec![("a", "1"), ("c", "[2]")], vec![("b", "\"x\"")])));
        assert_eq!(of(r#"{"o":null}"#), Some((vec![], vec![])));
        assert_eq!(of(r#"{"o":{"a":1},"o":{"b":2}}"#), Some((vec![], vec![("b", "2")])));
        assert_eq!(of(r#"{"o":"{}"}"#), None);
    }

    #[test]
    fn integers_are_those_that_serde_finds() {
        let lists = [
            "[1,2,3]",
            "[1, 2, 3]",
            "[]",
            "[0]",
            "[12345678, 1234567, 123456,12345 ,1234,123,12]",
            "[99999999]",
            "[100000000]",
            "[999999999]",
            "[2147483647]",
            "[2147483648]",
            "[-5, 6]",
            "[ 7 ]",
            "[01]",
            "[00]",
            "[00000001]",
            "[1/2]",
            "[1:2]",
            "[1,]",
            "[1.0]",
            "[1 2]",
            "[1",
            "1",
            "",
            "[\"1\"]",
            "[1]]",
            "[0123456789]",
            "[9999999999]",
            "[ ]",
        ];
        for json in lists {
            assert_eq!(integers(json), serde_json::from_str(json).ok(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_right(json in r#"[{}\[\]":,a0-2.eE+\-\\u n"tru]{0,24}"#) {
            let (object, list) = (format!("{{\"a\":{json}}}"), format!("[{json}]"));
            let holds = agrees(&json) && agrees(&object) && integers(&list) == serde_json::from_str(&list).ok();
            prop_assert!(holds);
        }
    }
}
