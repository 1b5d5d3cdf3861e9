//! OpenTelemetry ids as the tables hold them: lower-case hex, whatever the exporter wrote.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

const TRACE_ID_BYTES: usize = 16;
const SPAN_ID_BYTES: usize = 8;

/// A trace id in hex of any case, with or without `0x`, or in base64 (canonical protobuf JSON), as lower-case hex. Text that is
/// none of these is kept as it is. `None` for an id that is empty or all zeros: OpenTelemetry's "not set".
pub fn trace_id(text: &str) -> Option<String> {
    normalise(text, TRACE_ID_BYTES)
}

/// As [`trace_id`], for ids of spans.
pub fn span_id(text: &str) -> Option<String> {
    normalise(text, SPAN_ID_BYTES)
}

/// An id of a protobuf message as lower-case hex; `None` where it is empty or all zeros.
pub fn from_bytes(id: &[u8]) -> Option<String> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    if id.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut hex = String::with_capacity(2 * id.len());
    for byte in id {
        hex.push(char::from(HEX[usize::from(byte >> 4)]));
        hex.push(char::from(HEX[usize::from(byte & 15)]));
    }
    Some(hex)
}

fn normalise(text: &str, size_bytes: usize) -> Option<String> {
    let text = text.trim();
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if hex.bytes().all(|byte| byte == b'0') {
        return None;
    }
    if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) && (hex.len() == 2 * size_bytes || hex.len() < text.len()) {
        return Some(hex.to_ascii_lowercase());
    }
    // Without padding, and with it: 22 and 24 characters for 16 bytes, 11 and 12 for 8.
    let base64_chars = (4 * size_bytes).div_ceil(3)..=size_bytes.div_ceil(3) * 4;
    if base64_chars.contains(&text.len()) {
        let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok();
        if let Some(bytes) = decoded.filter(|bytes| bytes.len() == size_bytes) {
            return from_bytes(&bytes);
        }
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_id_gives_the_same() {
        // Base64 by `python3 -c 'import base64; print(base64.b64encode(bytes.fromhex(...)))'`.
        let trace = "fbeffbeffbeffbeffbeffbeffbeffbff";
        for text in [
            trace,
            "FBEFFBEFFBEFFBEFFBEFFBEFFBEFFBFF",
            "0xfbeffbeffbeffbeffbeffbeffbeffbff",
            "++/77/vv++/77/vv++/7/w==",
            "++/77/vv++/77/vv++/7/w",
            "--_77_vv--_77_vv--_7_w==",
        ] {
            assert_eq!(trace_id(text).as_deref(), Some(trace), "{text}");
        }
        for text in ["c1e38046157ad96c", "C1E38046157AD96C", "0xC1e38046157ad96c", "weOARhV62Ww=", "weOARhV62Ww"] {
            assert_eq!(span_id(text).as_deref(), Some("c1e38046157ad96c"), "{text}");
        }
    }

    #[test]
    fn ids_that_are_not_set_are_none() {
        for text in ["", "0000000000000000", "0x0", "AAAAAAAAAAA=", " "] {
            assert_eq!(span_id(text), None, "{text:?}");
        }
        assert_eq!(from_bytes(&[]), None);
    }

    #[test]
    fn foreign_ids_are_kept() {
        for text in ["run-42", "c1e38046", "0f8fad5b-d9cb-469f-a165-70867728950e"] {
            assert_eq!(span_id(text).as_deref(), Some(text));
        }
    }
}
