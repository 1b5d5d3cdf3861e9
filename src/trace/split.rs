//! Records out of JSON text that does not keep to lines: pretty-printed documents, arrays, documents after each other.

use std::ops::Range;

/// One piece of the text that a `Scanner` was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A whole record: bytes of the text, and newlines before it.
    Record { range: Range<usize>, line: u64 },
    /// Text between records that is none; or, where it begins with `{`, a record that its writer did not finish.
    Garbage { range: Range<usize>, line: u64 },
}

/// Finds top-level values. An array at the top is looked into: its elements are the records.
///
/// It counts brackets outside strings, so that nesting costs no stack and the text may come in pieces. A record that was cut off does
/// not swallow those after it: where no JSON could go on like this (a string holds a newline, or an object begins where neither
/// `[`, `,` nor `:` stands before it), it ends, and the next one begins.
#[derive(Debug, Default)]
pub struct Scanner {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Latest byte of the current record that is no white space and not inside a string.
    latest: u8,
    /// Bytes of the current, incomplete record that were looked at already.
    seen: usize,
    garbage: bool,
}

impl Scanner {
    /// Looks at `text`, which begins where the part that the last call consumed ended. Returns the pieces found and how many bytes were
    /// consumed; the rest is the beginning of a record and comes again, with more after it.
    pub fn scan(&mut self, text: &[u8]) -> (Vec<Piece>, usize) {
        let mut pieces = Vec::new();
        let mut start = 0;
        let mut line = 0;
        // Newlines before `counted` are in `line`.
        let mut counted = 0;
        let mut at = self.seen;
        let mut open = at > 0;
        while at < text.len() {
            if self.in_string {
                at = self.skip_string(text, at);
                if self.in_string && at < text.len() {
                    pieces.push(Piece::Garbage { range: start..at, line });
                    self.give_up();
                    open = false;
                    start = at;
                }
                continue;
            }
            let byte = text[at];
            if !open {
                // The last three are a byte order mark.
                if byte.is_ascii_whitespace() || matches!(byte, b',' | b'[' | b']' | 0xef | 0xbb | 0xbf) {
                    at += 1;
                    start = at;
                    continue;
                }
                open = true;
                self.garbage = byte != b'{';
                start = at;
                line += newlines(&text[counted..at]);
                counted = at;
            } else if byte == b'{' && (self.garbage || !matches!(self.latest, b'[' | b',' | b':')) {
                pieces.push(Piece::Garbage { range: start..at, line });
                self.give_up();
                open = false;
                start = at;
                continue;
            }
            at += 1;
            if self.garbage {
                // Until the line ends or the next record begins.
                if byte == b'\n' {
                    pieces.push(Piece::Garbage { range: start..at, line });
                    open = false;
                    start = at;
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                self.latest = byte;
            }
            if self.depth == 0 {
                pieces.push(Piece::Record { range: start..at, line });
                open = false;
                start = at;
            }
        }
        self.seen = if open { text.len() - start } else { 0 };
        (pieces, start)
    }

    /// Whether the text so far ends in the middle of a record.
    pub fn is_open(&self) -> bool {
        self.seen > 0
    }

    /// Forgets the current record.
    fn give_up(&mut self) {
        *self = Self::default();
    }

    /// Position after the string's closing quote, or of a newline in it (then it is still open), or the end of the text.
    fn skip_string(&mut self, text: &[u8], mut at: usize) -> usize {
        while at < text.len() {
            if self.escaped && text[at] != b'\n' {
                self.escaped = false;
                at += 1;
                continue;
            }
            let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', &text[at..]) else { return text.len() };
            at += found;
            match text[at] {
                b'"' => {
                    self.in_string = false;
                    return at + 1;
                }
                b'\\' => {
                    self.escaped = true;
                    at += 1;
                }
                _ => return at,
            }
        }
        text.len()
    }
}

/// Newlines in a piece of text.
pub fn newlines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans `text` in steps of every size: the records found must not depend on where the steps fall.
    fn check(text: &str, expected: &[(&str, u64)], garbage: &[&str]) {
        for step in 1..=text.len().max(1) {
            let mut scanner = Scanner::default();
            let (mut begin, mut lines) = (0, 0);
            let (mut records, mut rest) = (Vec::new(), Vec::new());
            let mut end = 0;
            while end < text.len() {
                end = (end + step).min(text.len());
                let (pieces, consumed) = scanner.scan(&text.as_bytes()[begin..end]);
                for piece in pieces {
                    match piece {
                        Piece::Record { range, line } => records.push((&text[begin..end][range], lines + line)),
                        Piece::Garbage { range, .. } => rest.push(text[begin..end][range].trim_end()),
                    }
                }
                lines += newlines(&text.as_bytes()[begin..begin + consumed]);
                begin += consumed;
            }
            assert_eq!(records, expected, "step {step}");
            if step == text.len() {
                assert_eq!(rest, garbage);
            }
        }
    }

    #[test]
    fn records_of_documents() {
        check("{\n \"a\": \"}{\\\"\\\\\"\n}\n{\"b\":[1,{}]}", &[("{\n \"a\": \"}{\\\"\\\\\"\n}", 0), ("{\"b\":[1,{}]}", 3)], &[]);
        check("[\n{\"a\":1},\n{\"a\":2}\n]\n", &[("{\"a\":1}", 1), ("{\"a\":2}", 2)], &[]);
        check("[]", &[], &[]);
        check("\u{feff}{\"a\":1}", &[("{\"a\":1}", 0)], &[]);
        check("oops\n{\"a\":1}", &[("{\"a\":1}", 1)], &["oops"]);
        // Found by fuzzing: a step that ended before the brace took it for more of what stands before it.
        check("oops{\"a\":1}", &[("{\"a\":1}", 0)], &["oops"]);
        check("{\"a\":1", &[], &[]);
    }

    #[test]
    fn a_record_that_was_cut_off_does_not_swallow_the_next() {
        let next = "{\"b\":[{}]}";
        for cut in ["{\"a\":1", "{\"a\":\"x", "{\"a\":\"x\\", "{\"a\":[{}", "{\"a\"", "{\"a\":\"x\"", "{"] {
            check(&format!("{cut}\n{next}\n{next}"), &[(next, 1), (next, 2)], &[cut]);
        }
        check("{\n \"a\": [\n  1,\n{\n \"b\": {}\n}\n{}", &[("{}", 6)], &["{\n \"a\": [\n  1,\n{\n \"b\": {}\n}"]);
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let (pieces, consumed) = Scanner::default().scan(text.as_bytes());
        assert_eq!((pieces.len(), consumed), (1, text.len()));
    }
}
