//! What a file is, by its first bytes; never by its name.

/// How the records of a file are laid out, once it is decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Nothing but white space.
    Empty,
    /// One JSON record a line.
    JsonLines,
    /// JSON values over many lines: one document, an array of records, or several documents after each other.
    JsonDocument,
    /// One OTLP protobuf message.
    Message,
    /// Messages, each after its length in four bytes, most significant first: OTLP protobuf, or zstd frames of protobuf or JSON.
    Framed,
    /// None of these.
    Unknown,
}

/// First bytes of a zstd frame.
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const UTF8_BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The layout of a file by its first bytes: some tens of kilobytes, or all where it is shorter.
///
/// An OTLP request begins with 0x0A, which is also a newline, and its next byte may be any: only the absence of control characters
/// tells JSON from it.
pub fn layout(start: &[u8]) -> Layout {
    let text = start.strip_prefix(&UTF8_BOM).unwrap_or(start);
    let Some(first) = text.iter().position(|byte| !byte.is_ascii_whitespace()) else { return Layout::Empty };
    if is_framed(start) {
        return Layout::Framed;
    }
    if start[0] == 0x0a && start.iter().any(|byte| is_control(*byte)) {
        return Layout::Message;
    }
    let text = &text[first..];
    let line = memchr::memchr(b'\n', text).map_or(text, |end| &text[..end]);
    match text[0] {
        b'{' if !is_cut_short(line) => Layout::JsonLines,
        // The first line goes on past what we see: no pretty-printed document begins like that.
        b'{' if line.len() == text.len() && line.len() > 4096 => Layout::JsonLines,
        b'{' | b'[' => Layout::JsonDocument,
        _ if start.iter().any(|byte| is_control(*byte)) => Layout::Unknown,
        // The first line is broken, but others look like records.
        _ if text.split(|byte| *byte == b'\n').any(|line| line.trim_ascii_start().starts_with(b"{")) => Layout::JsonLines,
        _ => Layout::Unknown,
    }
}

/// Bytes that text does not have.
fn is_control(byte: u8) -> bool {
    byte < 0x20 && !byte.is_ascii_whitespace()
}

fn is_framed(start: &[u8]) -> bool {
    let Some((length, rest)) = start.split_first_chunk::<4>() else { return false };
    let length = u32::from_be_bytes(*length);
    // White space in the first byte would be a length of 150 MB and more.
    length > 0
        && start[0] < 0x09
        && (rest.starts_with(&ZSTD_MAGIC) || rest.first().is_some_and(|byte| matches!(byte, 0x0a | b'{')))
}

/// Whether a line ends in the middle of a JSON value.
fn is_cut_short(line: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err_and(|error| error.is_eof())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let check = |start: &[u8], expected| assert_eq!(layout(start), expected, "{}", start.escape_ascii());
        check(b"", Layout::Empty);
        check(b" \r\n\t\n", Layout::Empty);
        check(b"{\"a\":1}\n{\"a\":2}\n", Layout::JsonLines);
        check(b"\xef\xbb\xbf{\"a\":1}\n", Layout::JsonLines);
        check(b"\n\n{\"a\":1}", Layout::JsonLines);
        check(b"{\"a\":}\n{\"a\":2}", Layout::JsonLines);
        check(b"broken\n{\"a\":2}", Layout::JsonLines);
        check(b"{\n  \"a\": 1\n}\n", Layout::JsonDocument);
        check(b"[{\"a\":1},\n{\"a\":2}]", Layout::JsonDocument);
        check(b"\x0a\x7b\x0a\x02\x12\x00", Layout::Message);
        check(b"\x00\x00\x00\x05\x0a\x03abc", Layout::Framed);
        check(b"\x00\x00\x10\x00\x28\xb5\x2f\xfd..", Layout::Framed);
        check(b"\x7fELF\x02\x01", Layout::Unknown);
        check(b"just some words\nand more\n", Layout::Unknown);
    }

    #[test]
    fn a_long_first_line_is_not_taken_for_a_document() {
        let line = format!("{{\"a\":\"{}", "x".repeat(10_000));
        assert_eq!(layout(line.as_bytes()), Layout::JsonLines);
    }
}
