//! Why an input record, or a part of one, was set aside.

/// Records are parsed no deeper than this many nested arrays and objects.
pub const MAX_DEPTH: usize = 128;

/// Raw text of a rejected record is kept up to this many bytes.
pub const MAX_RAW_BYTES: usize = 64 * 1024;

/// Why a record could not be used. Ingest never stops for these: each becomes a row of `rejects` with its file and line.
#[derive(Debug, thiserror::Error)]
pub enum Reject {
    #[error("record is not valid JSON")]
    Json(#[source] serde_json::Error),
    #[error("record is valid JSON, but a field of `{container}` has another type than it should")]
    Shape {
        container: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("text between records is not JSON")]
    NotARecord,
    #[error("record is not valid UTF-8: byte {offset} of it begins no character")]
    Utf8 { offset: usize },
    #[error("input ends in the middle of a record: the writer was stopped, or the file was cut")]
    Truncated,
    #[error("record has more than {limit_bytes} bytes; raise `ingest.max_record_bytes` to read it")]
    TooLarge { limit_bytes: usize },
    #[error("record nests more than {MAX_DEPTH} arrays and objects")]
    TooDeep,
    #[error("no reader knows this record by its top-level keys ({keys})")]
    UnknownFormat { keys: String },
    #[error("nothing in this record is read: what it holds is in `{key}`, which its format does not have")]
    UnknownMember { key: String },
    #[error("`{field}` is missing")]
    MissingField { field: &'static str },
    #[error("`{field}` is `{value}`, but should be {expected}")]
    BadValue { field: String, value: String, expected: &'static str },
    #[error("message is no OTLP request in protobuf")]
    Protobuf(#[source] prost::DecodeError),
    #[error("cannot be decompressed")]
    Compression(#[source] std::io::Error),
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    #[error("file is neither JSON nor OTLP protobuf, plain, gzip or zstd")]
    NotATraceFile,
}

impl Reject {
    /// The reason as a word: the column `code` of `rejects`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Json(_) | Self::NotARecord => "json",
            Self::Utf8 { .. } => "utf8",
            Self::Truncated => "truncated",
            Self::TooLarge { .. } => "too_large",
            Self::TooDeep => "too_deep",
            Self::UnknownFormat { .. } | Self::UnknownMember { .. } | Self::NotATraceFile => "unknown_format",
            Self::MissingField { .. } => "missing_field",
            Self::Shape { .. } | Self::BadValue { .. } => "bad_value",
            Self::Protobuf(_) => "protobuf",
            Self::Compression(_) => "compression",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// The reason with its causes, joined by colons: the column `reason` of `rejects`.
    pub fn reason(&self) -> String {
        let mut reason = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        reason
    }

    /// A `BadValue` whose value is cut to a length that suits a message.
    pub fn bad_value(field: impl Into<String>, value: &str, expected: &'static str) -> Self {
        let mut shown: String = value.chars().take(80).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self::BadValue { field: field.into(), value: shown, expected }
    }
}

/// Raw bytes as the column `raw` of `rejects` keeps them: at most [`MAX_RAW_BYTES`], invalid UTF-8 replaced.
pub fn bounded_raw(raw: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&raw[..raw.len().min(MAX_RAW_BYTES)]).into_owned();
    if text.len() > MAX_RAW_BYTES {
        text.truncate(text.floor_char_boundary(MAX_RAW_BYTES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_names_every_cause() {
        let error = serde_json::from_str::<u8>("{").expect_err("an object is no number");
        let reason = Reject::Json(error).reason();
        assert!(reason.starts_with("record is not valid JSON: "), "{reason}");
    }

    #[test]
    fn raw_is_bounded_also_where_replacement_makes_it_longer() {
        assert_eq!(bounded_raw(b"ab\xff"), "ab\u{fffd}");
        assert!(bounded_raw(&[0xff; 2 * MAX_RAW_BYTES]).len() <= MAX_RAW_BYTES);
    }
}
