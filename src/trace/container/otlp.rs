//! What the encodings of OTLP share: what a resource and a scope say about every span below them.

use std::borrow::Cow;

use super::super::attributes::{Attributes, Value, push_json_string};
use super::super::span::Status;

/// What a span takes from its resource and its instrumentation scope.
#[derive(Debug, Default)]
pub(super) struct Surroundings<'a> {
    pub service_name: Option<String>,
    pub resource_json: Option<String>,
    pub scope_name: Option<Cow<'a, str>>,
    pub scope_version: Option<Cow<'a, str>>,
    /// Attributes of the scope, keys prefixed with `otel.scope.`, for every span of it.
    pub scope_attributes: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Surroundings<'a> {
    pub fn of_resource(attributes: &Attributes<'_>) -> Self {
        Self {
            service_name: attributes.text("service.name").map(str::to_owned),
            resource_json: attributes.to_json(),
            ..Self::default()
        }
    }

    pub fn enter_scope(
        &mut self,
        name: Option<Cow<'a, str>>,
        version: Option<Cow<'a, str>>,
        attributes: Vec<(Cow<'a, str>, Value<'a>)>,
    ) {
        self.scope_name = name.filter(|name| !name.is_empty());
        self.scope_version = version.filter(|version| !version.is_empty());
        self.scope_attributes =
            attributes.into_iter().map(|(key, value)| (Cow::Owned(format!("otel.scope.{key}")), value)).collect();
    }

    /// The attributes of a span or log record, with those of its scope.
    pub fn attributes(&self, mut own: Vec<(Cow<'a, str>, Value<'a>)>) -> Attributes<'a> {
        own.extend(self.scope_attributes.iter().cloned());
        Attributes::new(own)
    }
}

/// A status code by its number; `None` for one that OTLP does not define.
pub(super) fn status_of_number(code: i64) -> Option<Status> {
    match code {
        0 => Some(Status::Unset),
        1 => Some(Status::Ok),
        2 => Some(Status::Error),
        _ => None,
    }
}

/// A status code by its name, with or without `STATUS_CODE_`.
pub(super) fn status_of_name(name: &str) -> Option<Status> {
    let upper = name.trim().to_ascii_uppercase();
    match upper.rsplit("STATUS_CODE_").next().unwrap_or_default().trim_start_matches("STATUSCODE.") {
        "" | "UNSET" => Some(Status::Unset),
        "OK" => Some(Status::Ok),
        "ERROR" => Some(Status::Error),
        digits => digits.parse().ok().and_then(status_of_number),
    }
}

/// Attribute that keeps a status code which OTLP does not define.
pub(super) const UNKNOWN_STATUS_KEY: &str = "otel.status_code";

/// What the clock that made a time could tell, in nanoseconds: OpenTelemetry JS takes starts from a clock of milliseconds,
/// Python and most others write nanoseconds.
pub(super) fn precision_ns(time_ns: i64) -> i64 {
    match time_ns {
        time if time % 1_000_000 == 0 => 1_000_000,
        time if time % 1_000 == 0 => 1_000,
        _ => 1,
    }
}

/// Name of a log event: the record's own, else that in the attribute `event.name`, where SDKs put it before the field was made.
pub(super) fn event_name<'a>(own: Option<Cow<'a, str>>, attributes: &mut Attributes<'a>) -> Option<Cow<'a, str>> {
    if own.is_some() || attributes.text("event.name").is_none() {
        return own;
    }
    match attributes.take("event.name") {
        Some(Value::Str(name)) => Some(name),
        _ => None,
    }
}

/// An `ArrayValue` as a JSON array.
pub(super) fn array_json<'v, 'a: 'v>(items: impl Iterator<Item = &'v Value<'a>>) -> String {
    let mut json = String::from("[");
    for item in items {
        if json.len() > 1 {
            json.push(',');
        }
        item.push_json(&mut json);
    }
    json.push(']');
    json
}

/// A `KeyValueList` as a JSON object.
pub(super) fn map_json<'v, 'a: 'v>(entries: impl Iterator<Item = (&'v str, &'v Value<'a>)>) -> String {
    let mut json = String::from("{");
    for (key, value) in entries {
        if json.len() > 1 {
            json.push(',');
        }
        push_json_string(&mut json, key);
        json.push(':');
        value.push_json(&mut json);
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests;
