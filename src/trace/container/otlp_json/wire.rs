//! The JSON of OTLP as serde sees it: every spelling of every field that exporters write.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::super::attributes::Value;
use super::super::super::span::Status;
use super::super::otlp::{status_of_name, status_of_number};

/// A request. `S` and `L` are what spans and log records are read as: their fields, or raw text.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de>, L: Deserialize<'de>"))]
pub struct Request<'a, S, L> {
    #[serde(borrow, default, rename = "resourceSpans", alias = "resource_spans", alias = "batches")]
    pub resource_spans: List<Resource<'a, S, L>>,
    #[serde(borrow, default, rename = "resourceLogs", alias = "resource_logs")]
    pub resource_logs: List<Resource<'a, S, L>>,
}

/// `ResourceSpans` or `ResourceLogs`.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de>, L: Deserialize<'de>"))]
pub struct Resource<'a, S, L> {
    #[serde(borrow, default)]
    pub resource: Option<ResourceFields<'a>>,
    #[serde(
        borrow,
        default,
        rename = "scopeSpans",
        alias = "scope_spans",
        alias = "instrumentationLibrarySpans",
        alias = "instrumentation_library_spans"
    )]
    pub scope_spans: List<Scope<'a, S, L>>,
    #[serde(
        borrow,
        default,
        rename = "scopeLogs",
        alias = "scope_logs",
        alias = "instrumentationLibraryLogs",
        alias = "instrumentation_library_logs"
    )]
    pub scope_logs: List<Scope<'a, S, L>>,
}

#[derive(Default, serde::Deserialize)]
pub struct ResourceFields<'a> {
    #[serde(borrow, default)]
    pub attributes: Entries<'a>,
}

/// `ScopeSpans` or `ScopeLogs`.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de>, L: Deserialize<'de>"))]
pub struct Scope<'a, S, L> {
    #[serde(borrow, default, alias = "instrumentationLibrary", alias = "instrumentation_library")]
    pub scope: Option<ScopeFields<'a>>,
    #[serde(default = "List::default")]
    pub spans: List<S>,
    #[serde(default = "List::default", rename = "logRecords", alias = "log_records", alias = "logs")]
    pub log_records: List<L>,
}

#[derive(Default, serde::Deserialize)]
pub struct ScopeFields<'a> {
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub version: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub attributes: Entries<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireSpan<'a> {
    #[serde(borrow, default, alias = "trace_id")]
    pub trace_id: Option<Text<'a>>,
    #[serde(borrow, default, alias = "span_id")]
    pub span_id: Option<Text<'a>>,
    #[serde(borrow, default, alias = "parent_span_id")]
    pub parent_span_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    #[serde(default, alias = "start_time_unix_nano")]
    pub start_time_unix_nano: Nanos,
    #[serde(default, alias = "end_time_unix_nano")]
    pub end_time_unix_nano: Nanos,
    #[serde(borrow, default)]
    pub attributes: Entries<'a>,
    #[serde(borrow, default)]
    pub events: List<WireEvent<'a>>,
    #[serde(borrow, default)]
    pub links: List<WireLink<'a>>,
    #[serde(borrow, default)]
    pub status: Option<WireStatus<'a>>,
}

#[derive(serde::Deserialize)]
pub struct WireStatus<'a> {
    #[serde(default)]
    pub code: Code,
    #[serde(borrow, default)]
    pub message: Option<Text<'a>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireEvent<'a> {
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    #[serde(default, alias = "time_unix_nano")]
    pub time_unix_nano: Nanos,
    #[serde(borrow, default)]
    pub attributes: Entries<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireLink<'a> {
    #[serde(borrow, default, alias = "trace_id")]
    pub trace_id: Option<Text<'a>>,
    #[serde(borrow, default, alias = "span_id")]
    pub span_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub attributes: Entries<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireLog<'a> {
    #[serde(borrow, default, alias = "trace_id")]
    pub trace_id: Option<Text<'a>>,
    #[serde(borrow, default, alias = "span_id")]
    pub span_id: Option<Text<'a>>,
    #[serde(borrow, default, alias = "event_name")]
    pub event_name: Option<Text<'a>>,
    #[serde(default, alias = "time_unix_nano")]
    pub time_unix_nano: Nanos,
    #[serde(default, alias = "observed_time_unix_nano")]
    pub observed_time_unix_nano: Nanos,
    #[serde(borrow, default, alias = "severity_text")]
    pub severity_text: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub body: AnyValue<'a>,
    #[serde(borrow, default)]
    pub attributes: Entries<'a>,
}

/// A string, borrowed where it holds no escapes. (Of a bare `Option<Cow<str>>` serde would always copy.)
#[derive(serde::Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A list; `null` stands for an empty one, as in protobuf's JSON.
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_unit<E>(self) -> Result<List<T>, E> {
                Ok(List::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

/// A list of `KeyValue`s.
#[derive(Default)]
pub struct Entries<'a>(pub Vec<(Cow<'a, str>, Value<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for EntriesVisitor<'a> {
            type Value = Entries<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of keys and values")
            }
            fn visit_unit<E>(self) -> Result<Entries<'a>, E> {
                Ok(Entries::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entries<'a>, A::Error> {
                let mut entries = Vec::new();
                while let Some(KeyValue { key, value }) = items.next_element()? {
                    entries.push((key, value.0));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(EntriesVisitor(PhantomData))
    }
}

#[derive(serde::Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: AnyValue<'a>,
}

/// OTLP's `AnyValue`: an object whose one key names the type, `{}` for null. Bare JSON scalars, which some exporters write
/// instead, are taken too.
pub struct AnyValue<'a>(pub Value<'a>);

impl Default for AnyValue<'_> {
    fn default() -> Self {
        Self(Value::Null)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for AnyValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValueVisitor(PhantomData)).map(AnyValue)
    }
}

struct AnyValueVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for AnyValueVisitor<'a> {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object like `{\"stringValue\": …}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'a>, A::Error> {
        let mut value = Value::Null;
        while let Some(kind) = map.next_key::<ValueKind>()? {
            value = match kind {
                ValueKind::String => map.next_value::<Option<Text<'a>>>()?.map_or(Value::Null, |text| Value::Str(text.0)),
                ValueKind::Bytes => map.next_value::<Option<Text<'a>>>()?.map_or(Value::Null, |text| Value::Bytes(text.0)),
                ValueKind::Bool => map.next_value::<Option<bool>>()?.map_or(Value::Null, Value::Bool),
                ValueKind::Int => map.next_value::<Number>()?.into_int(),
                ValueKind::Double => map.next_value::<Number>()?.into_double(),
                ValueKind::Array => {
                    Value::Json(Cow::Owned(array_json(&map.next_value::<Option<Array<'a>>>()?.unwrap_or_default())))
                }
                ValueKind::Map => Value::Json(Cow::Owned(map_json(&map.next_value::<Option<Map<'a>>>()?.unwrap_or_default()))),
                ValueKind::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
        }
        Ok(value)
    }

    fn visit_unit<E>(self) -> Result<Value<'a>, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, flag: bool) -> Result<Value<'a>, E> {
        Ok(Value::Bool(flag))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value<'a>, E> {
        Ok(Value::Int(number))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value<'a>, E> {
        Ok(Number::Unsigned(number).into_int())
    }
    fn visit_f64<E>(self, number: f64) -> Result<Value<'a>, E> {
        Ok(Value::Double(number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value<'a>, E> {
        Ok(Value::Str(Cow::Owned(text.to_owned())))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'a>, E> {
        Ok(Value::Str(Cow::Borrowed(text)))
    }
}

#[derive(serde::Deserialize)]
enum ValueKind {
    #[serde(rename = "stringValue", alias = "string_value")]
    String,
    #[serde(rename = "intValue", alias = "int_value")]
    Int,
    #[serde(rename = "doubleValue", alias = "double_value")]
    Double,
    #[serde(rename = "boolValue", alias = "bool_value")]
    Bool,
    #[serde(rename = "arrayValue", alias = "array_value")]
    Array,
    #[serde(rename = "kvlistValue", alias = "kvlist_value")]
    Map,
    #[serde(rename = "bytesValue", alias = "bytes_value")]
    Bytes,
    #[serde(other)]
    Unknown,
}

#[derive(Default, serde::Deserialize)]
struct Array<'a> {
    #[serde(borrow, default)]
    values: List<AnyValue<'a>>,
}

#[derive(Default, serde::Deserialize)]
struct Map<'a> {
    #[serde(borrow, default)]
    values: Entries<'a>,
}

fn array_json(array: &Array<'_>) -> String {
    super::super::otlp::array_json(array.values.0.iter().map(|item| &item.0))
}

fn map_json(map: &Map<'_>) -> String {
    super::super::otlp::map_json(map.values.0.iter().map(|(key, value)| (key.as_ref(), value)))
}

/// A number as JSON number or string.
enum Number {
    Missing,
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    /// Text that is none of these, such as `-Infinity` or a number beyond 64 bits.
    Text(String),
}

impl Number {
    /// As an integer where it is one, else the nearest thing that holds it.
    fn into_int<'a>(self) -> Value<'a> {
        match self {
            Self::Missing => Value::Null,
            Self::Signed(number) => Value::Int(number),
            Self::Unsigned(number) => match i64::try_from(number) {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Str(Cow::Owned(number.to_string())),
            },
            Self::Float(number) => Value::Double(number),
            Self::Text(text) => Value::Str(Cow::Owned(text)),
        }
    }

    fn into_double<'a>(self) -> Value<'a> {
        match self {
            Self::Signed(number) => Value::Double(number as f64),
            Self::Unsigned(number) => Value::Double(number as f64),
            Self::Text(text) => match text.trim().parse() {
                Ok(number) => Value::Double(number),
                Err(_) => Value::Str(Cow::Owned(text)),
            },
            other => other.into_int(),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a string that holds one")
            }
            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number::Missing)
            }
            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number::Signed(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number::Unsigned(number))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number::Float(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(text.trim().parse().map_or_else(|_| Number::Text(text.to_owned()), Number::Signed))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// Nanoseconds since 1970; `None` where missing or zero, which is how protobuf says missing.
#[derive(Default)]
pub struct Nanos(pub Option<i64>);

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time_ns = match Number::deserialize(deserializer)? {
            Number::Missing => None,
            Number::Signed(time_ns) => Some(time_ns),
            Number::Unsigned(time_ns) => Some(i64::try_from(time_ns).map_err(|_| D::Error::custom("time after the year 2262"))?),
            // A double holds such a time to 256 ns.
            Number::Float(time_ns) => Some(time_ns as i64),
            Number::Text(text) if text.trim().is_empty() => None,
            Number::Text(text) => return Err(D::Error::custom(format_args!("`{text:.40}` is no time in nanoseconds"))),
        };
        Ok(Self(time_ns.filter(|time_ns| *time_ns != 0)))
    }
}

/// A status code.
pub enum Code {
    Known(Status),
    /// As written.
    Unknown(String),
}

impl Default for Code {
    fn default() -> Self {
        Self::Known(Status::Unset)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (status, text) = match Number::deserialize(deserializer)? {
            Number::Missing => return Ok(Self::default()),
            Number::Signed(code) => (status_of_number(code), code.to_string()),
            Number::Unsigned(code) => (i64::try_from(code).ok().and_then(status_of_number), code.to_string()),
            Number::Float(code) => (None, code.to_string()),
            Number::Text(name) => (status_of_name(&name), name),
        };
        Ok(status.map_or(Self::Unknown(text), Self::Known))
    }
}
