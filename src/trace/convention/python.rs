//! Python literals as JSON: some instrumentations write `repr()` of a value where others write JSON.

use crate::trace::attributes::push_json_string;

/// Literals nest no deeper than this.
const MAX_DEPTH: usize = 64;

/// The JSON of a Python literal: dicts, lists, tuples, sets, strings, numbers, `None`, `True`, `False`. JSON itself passes
/// too. `None` where the text is anything else (the repr of an object, a call).
pub(super) fn to_json(literal: &str) -> Option<String> {
    let mut reader = Reader { rest: literal, json: String::with_capacity(literal.len()) };
    reader.value(0)?;
    reader.skip_space();
    reader.rest.is_empty().then_some(reader.json)
}

struct Reader<'a> {
    rest: &'a str,
    json: String,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        match self.rest.as_bytes().first()? {
            b'{' => self.braces(depth),
            b'[' => self.items(']', depth),
            b'(' => self.items(')', depth),
            b'\'' | b'"' => {
                let text = self.string()?;
                push_json_string(&mut self.json, &text);
                Some(())
            }
            b'-' | b'+' | b'.' | b'0'..=b'9' => self.number(),
            _ => self.word(),
        }
    }

    /// A dict, or a set as a list.
    fn braces(&mut self, depth: usize) -> Option<()> {
        let opened = self.json.len();
        self.eat("{")?;
        self.json.push('{');
        let mut is_dict = None;
        loop {
            self.skip_space();
            if self.eat("}").is_some() {
                break;
            }
            if is_dict.is_some() {
                self.json.push(',');
            }
            let start = self.json.len();
            self.value(depth + 1)?;
            self.skip_space();
            let has_colon = self.eat(":").is_some();
            if *is_dict.get_or_insert(has_colon) != has_colon {
                return None;
            }
            if has_colon {
                if !self.json[start..].starts_with('"') {
                    let key = self.json.split_off(start);
                    push_json_string(&mut self.json, &key);
                }
                self.json.push(':');
                self.value(depth + 1)?;
            }
            self.skip_space();
            if self.eat(",").is_none() {
                self.skip_space();
                self.eat("}")?;
                break;
            }
        }
        if is_dict == Some(false) {
            self.json.replace_range(opened..=opened, "[");
            self.json.push(']');
        } else {
            self.json.push('}');
        }
        Some(())
    }

    fn items(&mut self, close: char, depth: usize) -> Option<()> {
        self.rest = &self.rest[1..];
        self.json.push('[');
        let close = close.to_string();
        let mut first = true;
        loop {
            self.skip_space();
            if self.eat(&close).is_some() {
                break;
            }
            if !first {
                self.json.push(',');
            }
            first = false;
            self.value(depth + 1)?;
            self.skip_space();
            if self.eat(",").is_none() {
                self.skip_space();
                self.eat(&close)?;
                break;
            }
        }
        self.json.push(']');
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut characters = self.rest.char_indices().skip(1);
        let mut text = String::new();
        loop {
            let (at, character) = characters.next()?;
            if character == quote {
                self.rest = &self.rest[at + 1..];
                return Some(text);
            }
            if character != '\\' {
                text.push(character);
                continue;
            }
            let (_, escaped) = characters.next()?;
            let digits = match escaped {
                'n' => {
                    text.push('\n');
                    continue;
                }
                't' => {
                    text.push('\t');
                    continue;
                }
                'r' => {
                    text.push('\r');
                    continue;
                }
                'x' => 2,
                'u' => 4,
                'U' => 8,
                other => {
                    text.push(other);
                    continue;
                }
            };
            let mut code = 0;
            for _ in 0..digits {
                code = code * 16 + characters.next()?.1.to_digit(16)?;
            }
            text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
    }

    fn number(&mut self) -> Option<()> {
        let end = self
            .rest
            .find(|character: char| !(character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '+')))
            .unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        // Python writes `1.` and `.5` never in a repr, but infinities as `-inf`: JSON has no word for those.
        if serde_json::from_str::<serde_json::Number>(number).is_ok() {
            self.json.push_str(number);
        } else if number.parse::<f64>().is_ok() {
            push_json_string(&mut self.json, number);
        } else {
            return None;
        }
        self.rest = rest;
        Some(())
    }

    fn word(&mut self) -> Option<()> {
        for (word, json) in
            [("None", "null"), ("True", "true"), ("False", "false"), ("null", "null"), ("true", "true"), ("false", "false")]
        {
            if let Some(rest) = self.rest.strip_prefix(word)
                && !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
            {
                self.rest = rest;
                self.json.push_str(json);
                return Some(());
            }
        }
        None
    }

    fn eat(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::to_json;

    #[test]
    fn literals() {
        for (literal, json) in [
            ("{'expression': '20 / (5 - 5)'}", Some(r#"{"expression":"20 / (5 - 5)"}"#)),
            ("[{'token_ids': [1, 2], 'x': None, 'ok': True}]", Some(r#"[{"token_ids":[1,2],"x":null,"ok":true}]"#)),
            (r#"{"it's": "a \"b\" \n \x41 \u00e9"}"#, Some(r#"{"it's":"a \"b\" \n A é"}"#)),
            ("('a', 1.5, -2e3, ())", Some(r#"["a",1.5,-2e3,[]]"#)),
            ("{1: 'a', 2: {'b'}}", Some(r#"{"1":"a","2":["b"]}"#)),
            ("{}", Some("{}")),
            ("[[3, 4]]", Some("[[3,4]]")),
            ("<object at 0x1>", None),
            ("Foo(a=1)", None),
            ("{'a': 1", None),
            ("", None),
        ] {
            assert_eq!(to_json(literal).as_deref(), json, "{literal}");
        }
        assert_eq!(to_json(&"[".repeat(100_000)), None);
    }
}
