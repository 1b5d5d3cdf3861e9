//! Agent Lightning 1.0: the events that its gateway keeps for a rollout, and its rollout records.
//!
//! ```text
//! {"event_type": "model_request", "rollout_id", "attempt_id", "timestamp": 1795364132.33, "data": {"request", "response", "server", …}}
//! {"event_type": "model_request", …, "data": {"prompt_token_ids", "response_token_ids", "response_log_probs", …}}   with format=triplet
//! {"event_type": "reward", …, "data": {"value": 1.0, "source": "agent", "message": "exact match"}}
//! {"rollout_id", "input", "is_train", "config", "metadata": {"data_id", …}, "status": {"state", …}}
//! ```
//!
//! There are no spans and no ids of events: their order is the order in which they stand, and their time is that of writing, which for a
//! call is its end. An event's id is made from what both views of it say, so that the same event in both is one.

use super::agent_lightning::{json_of, stated_task};
use super::metadata::first_text;
use super::record::{parse, reward_value, take_id, take_logprobs, take_time, take_token_ids};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::Role;
use crate::trace::object::Object;
use crate::trace::openai::{read_request, read_response, read_usage};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, Reward, RolloutRecord, Span, Status};
use crate::trace::time::Time;

/// Whether a record is an event or a rollout record.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.has("rollout_id") && (keys.has("event_type") || keys.has("is_train") || keys.inside("status").has("state"))
}

/// Reads one record.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let record = parse(text)?;
    let span = if record.contains("event_type") { event(record, origin, sink)? } else { rollout(record, origin, options, sink) };
    sink.spans.push(span);
    Ok(())
}

fn event(mut record: Attributes<'_>, origin: Origin, sink: &mut Sink) -> Result<Span, Reject> {
    let event_type = record.take_text("event_type").unwrap_or_default();
    let mut identity = Identity {
        rollout_id: Some(take_id(&mut record, "rollout_id").ok_or(Reject::MissingField { field: "rollout_id" })?),
        attempt_id: take_id(&mut record, "attempt_id"),
        ..Identity::default()
    };
    let stamp = record.get("timestamp").and_then(Value::as_text).unwrap_or_default().into_owned();
    let time = take_time(&mut record, "timestamp", origin, sink);
    let data_object = record.take_object("data");
    let mut data = Attributes::of_object(data_object.as_ref());

    let mut said = data_object.as_ref().map(json_of).unwrap_or_default();
    let mut span = Span {
        origin,
        format: Format::AgentLightningV1,
        kind_evidence: Some("event_type".to_owned()),
        start_ns: time.map(|time| time.ns),
        end_ns: time.map(|time| time.ns),
        time_precision_ns: time.map(|time| time.precision_ns),
        order: Some(format!("{:06}.{:012}.{:06}", origin.file, origin.line, origin.position)),
        ..Span::default()
    };
    match event_type.as_str() {
        "model_request" => {
            span.kind = Kind::Llm;
            model_request(&mut span, &mut data, time, &mut identity, sink);
            if let Some((prompt, response)) = span.llm.as_deref().and_then(token_ids) {
                said = format!("{prompt:?}{response:?}");
            }
        }
        "reward" => {
            span.kind = Kind::Reward;
            let reward = reward(&mut data)?;
            said = reward.value.map(|value| value.to_string()).unwrap_or_default();
            span.rewards.push(reward);
        }
        _ => {}
    }
    let attempt = identity.attempt_id.as_deref().unwrap_or("0");
    let hash = blake3::hash(format!("{attempt}\0{stamp}\0{said}").as_bytes()).to_hex();
    span.span_id = format!("{event_type}.{}", &hash[..16]);
    span.name = event_type;
    span.identity = identity;
    data.fill_from(&record);
    span.attributes_json = data.to_json();
    Ok(span)
}

fn token_ids(llm: &Llm) -> Option<(&[i32], &[i32])> {
    Some((llm.prompt_token_ids.as_deref()?, llm.choices.first()?.token_ids.as_deref()?))
}

fn model_request(span: &mut Span, data: &mut Attributes<'_>, time: Option<Time>, identity: &mut Identity, sink: &mut Sink) {
    let mut llm = Llm::default();
    if let Some(request) = data.take_object("request")
        && !read_request(&json_of(&request), &mut llm)
    {
        data.put("request", request);
    }
    let mut error = data.get("error").map(error_text);
    if let Some(response) = data.take_object("response") {
        match read_response(&json_of(&response), &mut llm).as_deref() {
            Some("{}") => {}
            Some(rest) => data.put("response", Value::Json(rest.to_owned().into())),
            None => {
                error = error.or_else(|| Attributes::of_object(Some(&response)).get("error").map(error_text));
                data.put("response", response);
            }
        }
    }
    // What the gateway repeats from the response.
    if let Some(usage) = data.take_object("usage")
        && let Some(usage) = Object::parse(&json_of(&usage))
    {
        read_usage(&usage, &mut llm);
    }
    let finish_reason = data.take_text("finish_reason");
    if let Some(prompt) = take_token_ids(data, "prompt_token_ids", span.origin, sink) {
        llm.prompt_token_ids = Some(prompt);
    }
    if data.contains("response_token_ids") {
        let ids = take_token_ids(data, "response_token_ids", span.origin, sink);
        let logprobs = take_logprobs(data, "response_log_probs", ids.as_deref(), span.origin, sink);
        if llm.choices.is_empty() {
            let mut choice = Choice::default();
            choice.message.role = Role::Assistant;
            llm.choices.push(choice);
        }
        (llm.choices[0].token_ids, llm.choices[0].logprobs) = (ids, logprobs);
    }
    if let Some(choice) = llm.choices.first_mut()
        && choice.finish_reason.is_none()
    {
        choice.finish_reason = finish_reason;
    }

    let server = Attributes::of_object(data.get("server"));
    identity.policy_version =
        data.get("model_version").and_then(Value::as_int).or_else(|| server.get("version").and_then(Value::as_int));
    let served = server.text("model").map(str::to_owned);
    llm.model_requested = llm.model_requested.or_else(|| data.take_text("model")).or(served);
    llm.http_status = data.take_int("http_status").and_then(|status| i32::try_from(status).ok());
    let status = data.take_text("status");
    if status.as_deref() == Some("error") || llm.http_status.is_some_and(|status| status >= 400) {
        span.status = Status::Error;
        span.status_message = error;
    } else if status.as_deref() == Some("ok") {
        span.status = Status::Ok;
    }
    // The time is that of the end; how long the call took is not in both views.
    let latency_ms = data.get("latency_ms").and_then(Value::as_double).filter(|latency_ms| *latency_ms >= 0.0);
    span.start_ns = time.zip(latency_ms).map(|(time, latency_ms)| time.ns.saturating_sub((latency_ms * 1e6) as i64));
    span.llm = Some(Box::new(llm));
}

/// An error as text: its message, where it is an object with one.
fn error_text(error: &Value<'_>) -> String {
    let members = Attributes::of_object(Some(error));
    first_text(&members, ["message", "detail"]).unwrap_or_else(|| error.as_text().unwrap_or_default().into_owned())
}

/// The format says nothing about what a reward is for; the last of a rollout is what Agent Lightning trains on.
fn reward(data: &mut Attributes<'_>) -> Result<Reward, Reject> {
    let value = data.take("value").ok_or(Reject::MissingField { field: "data.value" })?;
    let number = reward_value(&value).ok_or_else(|| Reject::bad_value("data.value", &json_of(&value), "a finite number"))?;
    let source = data.text("source").filter(|source| matches!(*source, "agent" | "fallback")).map(str::to_owned);
    if source.is_some() {
        data.take("source");
    }
    Ok(Reward {
        name: "reward".to_owned(),
        value: Some(number),
        is_final: source.as_deref() == Some("fallback"),
        source,
        comment: data.take_text("message"),
        primary: true,
        ..Reward::default()
    })
}

fn rollout(mut record: Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Span {
    let status_object = record.take_object("status");
    let mut status = Attributes::of_object(status_object.as_ref());
    let created = take_time(&mut status, "created_at", origin, sink);
    let updated = take_time(&mut status, "updated_at", origin, sink);
    let attempt_id = take_id(&mut status, "last_attempt_id");
    let state = match status.take_text("state").as_deref() {
        Some(state @ ("succeeded" | "failed" | "cancelled" | "timeout")) => state.to_owned(),
        _ => "running".to_owned(),
    };
    let metadata = Attributes::of_object(record.get("metadata"));
    let group_id = first_text(&metadata, ["data_id", "group_id"]);
    let task_id = stated_task(&metadata, record.get("input"), options);
    drop(metadata);
    let status_message = status.take_text("error_message");
    let identity = Identity {
        rollout_id: take_id(&mut record, "rollout_id"),
        attempt_id: attempt_id.clone(),
        group_id,
        task_id,
        split: record.take_bool("is_train").map(|train| if train { "train" } else { "val" }.to_owned()),
        ..Identity::default()
    };
    let task_input = record.take("input").map(|input| json_of(&input));
    record.put_rest("status", &status);
    let ended = (state != "running").then_some(updated).flatten();
    Span {
        origin,
        format: Format::AgentLightningV1,
        span_id: format!("rollout.{}.{state}", attempt_id.as_deref().unwrap_or("0")),
        name: "rollout".to_owned(),
        kind: Kind::Rollout,
        kind_evidence: Some("rollout_id".to_owned()),
        start_ns: created.map(|time| time.ns),
        end_ns: ended.map(|time| time.ns),
        time_precision_ns: created.or(updated).map(|time| time.precision_ns),
        identity,
        rollout: Some(Box::new(RolloutRecord { task_input, status: Some(state), status_message })),
        attributes_json: record.to_json(),
        ..Span::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    #[test]
    fn failed_request() {
        let sink = sink_of(
            r#"{"event_type":"model_request","rollout_id":"r","attempt_id":"0","timestamp":1795364132.5,"data":{"model":"m","model_version":3,
                "request":{"model":"m","messages":[{"role":"user","content":"q"}],"temperature":0.5},"response":{"error":{"message":"overloaded","code":503}},
                "latency_ms":500,"http_status":503,"status":"error","retry_count":2}}"#,
            &[],
        );
        assert_eq!(codes(&sink), [""; 0]);
        let span = &sink.spans[0];
        assert_eq!((span.kind, span.status, span.status_message.as_deref()), (Kind::Llm, Status::Error, Some("overloaded")));
        assert_eq!((span.start_ns, span.end_ns), (Some(1_795_364_132_000_000_000), Some(1_795_364_132_500_000_000)));
        let llm = span.llm.as_deref().unwrap();
        assert_eq!((llm.http_status, llm.temperature, llm.input.len(), llm.choices.len()), (Some(503), Some(0.5), 1, 0));
        assert_eq!(span.identity.policy_version, Some(3));
        assert!(span.attributes_json.as_deref().is_some_and(|rest| rest.contains(r#""retry_count":2"#)));
    }

    #[test]
    fn both_views_of_an_event_have_one_id() {
        let id = |data: &str| {
            let event =
                format!(r#"{{"event_type":"model_request","rollout_id":"r","attempt_id":"0","timestamp":5e8,"data":{data}}}"#);
            let sink = sink_of(&event, &[]);
            assert_eq!(codes(&sink), [""; 0]);
            (sink.spans[0].span_id.clone(), sink.spans[0].llm.as_ref().unwrap().choices[0].logprobs.clone())
        };
        let full = id(
            r#"{"response":{"prompt_token_ids":[1],"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"token_ids":[2],"logprobs":{"content":[{"logprob":-0.5}]}}]}}"#,
        );
        assert_eq!(full, id(r#"{"prompt_token_ids":[1],"response_token_ids":[2],"response_log_probs":[-0.5]}"#));
        assert_ne!(full.0, id(r#"{"prompt_token_ids":[1],"response_token_ids":[3],"response_log_probs":[-0.5]}"#).0);
    }

    #[test]
    fn rewards() {
        let read =
            |data: &str| sink_of(&format!(r#"{{"event_type":"reward","rollout_id":"r","timestamp":5e8,"data":{data}}}"#), &[]);
        let sink = read(r#"{"value":0,"source":"fallback","reason":"timeout"}"#);
        let reward = &sink.spans[0].rewards[0];
        assert_eq!((reward.value, reward.source.as_deref(), reward.is_final), (Some(0.0), Some("fallback"), true));
        assert_eq!(sink.spans[0].attributes_json.as_deref(), Some(r#"{"reason":"timeout"}"#));
        for (data, code) in [
            (r#"{"value":true}"#, "bad_value"),
            (r#"{"value":"NaN"}"#, "bad_value"),
            (r#"{"value":null}"#, "missing_field"),
            (r#"{"value":1e999}"#, "bad_value"),
            (r#"{}"#, "missing_field"),
        ] {
            let sink = read(data);
            assert_eq!((codes(&sink), sink.spans.len()), (vec![code], 0), "{data}");
        }
    }

    #[test]
    fn other_events_are_kept() {
        let sink = sink_of(r#"{"event_type":"note","rollout_id":"r","timestamp":5e8,"data":{"text":"hi"},"extra":1}"#, &[]);
        assert_eq!((sink.spans[0].kind, sink.spans[0].name.as_str()), (Kind::Other, "note"));
        assert_eq!(sink.spans[0].attributes_json.as_deref(), Some(r#"{"extra":1,"text":"hi"}"#));
    }
}
