//! What the readers of JSON records share: parsing one, and times, numbers and rewards in it.

use super::Sink;
use super::keys::{is_too_deep, parse_reject};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::reject::Reject;
use crate::trace::span::{Origin, Status};
use crate::trace::time::{self, Time};

/// The members of a record.
///
/// # Errors
/// The text is no JSON object, or nests too deep for whoever reads the attributes later.
pub fn parse(text: &str) -> Result<Attributes<'_>, Reject> {
    if is_too_deep(text) {
        return Err(Reject::TooDeep);
    }
    Attributes::from_json(text).map_err(|error| parse_reject(text, "record", error))
}

/// A made-up span id, for formats that have none: the place of the record.
pub fn placed_id(origin: Origin) -> String {
    format!("{}.{}", origin.line, origin.position)
}

/// Removes a string that is not empty, or a number as its text.
pub fn take_id(record: &mut Attributes<'_>, key: &str) -> Option<String> {
    match record.get(key)? {
        Value::Str(text) if text.is_empty() => record.take(key).and(None),
        Value::Str(_) | Value::Int(_) => record.take_text(key),
        _ => None,
    }
}

/// Removes a time. One that cannot be read is set aside, and the span has no time then.
pub fn take_time(record: &mut Attributes<'_>, key: &'static str, origin: Origin, sink: &mut Sink) -> Option<Time> {
    let value = record.take(key)?;
    let text = value.as_text()?;
    let time = time::parse(&text);
    if time.is_none() && !matches!(text.as_ref(), "" | "0" | "0.0") {
        let expected = "seconds, milli-, micro- or nanoseconds since 1970, or an ISO 8601 time";
        sink.reject(origin, Reject::bad_value(key, &text, expected), text.as_bytes());
    }
    time
}

/// Removes a reward's value. Whatever is no finite number is set aside.
pub fn take_reward(record: &mut Attributes<'_>, key: &'static str, origin: Origin, sink: &mut Sink) -> Option<f64> {
    let value = record.take(key)?;
    let number = reward_value(&value);
    if number.is_none() {
        let mut text = String::new();
        value.push_json(&mut text);
        sink.reject(origin, Reject::bad_value(key, &text, "a finite number"), text.as_bytes());
    }
    number
}

/// A finite number that was written as a number: text such as `"NaN"` and booleans are no rewards.
pub fn reward_value(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Double(number) if number.is_finite() => Some(*number),
        _ => None,
    }
}

/// A status as OpenTelemetry's SDKs write it: a number, `OK`, `STATUS_CODE_OK` or `StatusCode.OK`.
pub fn status(code: Option<&Value<'_>>) -> Status {
    let Some(text) = code.and_then(Value::as_text) else { return Status::Unset };
    match text.rsplit(['.', '_']).next().unwrap_or_default() {
        "1" | "OK" | "Ok" | "ok" => Status::Ok,
        "2" | "ERROR" | "Error" | "error" => Status::Error,
        _ => Status::Unset,
    }
}

/// Removes token ids. A list that holds anything else is set aside.
pub fn take_token_ids(record: &mut Attributes<'_>, key: &'static str, origin: Origin, sink: &mut Sink) -> Option<Vec<i32>> {
    let value = record.take(key)?;
    let ids = value.as_ints();
    if ids.is_none() {
        let text = value.as_text().unwrap_or_default();
        sink.reject(origin, Reject::bad_value(key, &text, "a list of token ids"), text.as_bytes());
    }
    ids
}

/// Removes log-probabilities: numbers, or objects with a `logprob` each, in a list or in the `content` of an object. What is no
/// such thing, or has not one for each of the ids, is set aside.
pub fn take_logprobs(
    record: &mut Attributes<'_>,
    key: &'static str,
    ids: Option<&[i32]>,
    origin: Origin,
    sink: &mut Sink,
) -> Option<Vec<f32>> {
    let value = record.take(key)?;
    let logprobs = logprobs(&value).filter(|logprobs| ids.is_none_or(|ids| ids.len() == logprobs.len()));
    if logprobs.is_none() {
        let text = value.as_text().unwrap_or_default();
        let expected = "a list of log-probabilities, one for each token id of the response";
        sink.reject(origin, Reject::bad_value(key, &text, expected), text.as_bytes());
    }
    logprobs
}

fn logprobs(value: &Value<'_>) -> Option<Vec<f32>> {
    let object = Attributes::of_object(Some(value));
    let list = object.get("content").or_else(|| object.get("token_logprobs")).unwrap_or(value);
    if !matches!(list, Value::Json(text) | Value::Str(text) if text.starts_with('[')) {
        return None;
    }
    let numbers = list.elements().into_iter().map(|item| {
        let item = Value::from_json(item);
        let number = match &item {
            Value::Json(_) => Attributes::of_object(Some(&item)).get("logprob")?.as_double()?,
            number => number.as_double()?,
        };
        number.is_finite().then_some(number as f32)
    });
    numbers.collect()
}

/// Everything that one record gives, for tests: a record that is refused is among the rejects.
#[cfg(test)]
pub fn sink_of(text: &str, task_id_keys: &[&str]) -> Sink {
    let options = super::ReadOptions { task_id_keys: task_id_keys.iter().map(|key| (*key).to_owned()).collect() };
    let origin = Origin { line: 7, ..Origin::default() };
    let mut sink = Sink::default();
    if let Err(reject) = super::read_json(text.as_bytes(), origin, &options, &mut sink) {
        sink.reject(origin, reject, text.as_bytes());
    }
    sink
}

/// The words of the rejects, for tests.
#[cfg(test)]
pub fn codes(sink: &Sink) -> Vec<&'static str> {
    sink.rejects.iter().map(|part| part.reject.code()).collect()
}
