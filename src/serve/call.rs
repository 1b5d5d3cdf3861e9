//! A call under way: whatever becomes of it, it is recorded when this is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::HeaderMap;
use serde_json::{Map, Value};

use super::app::App;
use super::memory::History;
use super::metrics::Metrics;
use super::openai::ApiError;
use super::record::{CallRecord, now_ns};
use super::session::{Session, hex};
use super::splice::Turn;

/// What the client of an answer that never came would have been told, as servers log it.
const CLIENT_GONE: u16 = 499;

/// One call, from its request to the last byte of its answer.
pub struct Call {
    app: Arc<App>,
    pub session: Option<Arc<Session>>,
    pub record: CallRecord,
    /// The conversation before the answer, where it is to be kept.
    pub history: Option<History>,
    ended: bool,
}

impl Call {
    /// Takes a place.
    ///
    /// # Errors
    /// There is none, or the rollout has made all the calls that it may.
    pub fn begin(
        app: &Arc<App>,
        session: Option<Arc<Session>>,
        operation: &'static str,
        headers: &HeaderMap,
    ) -> Result<Call, ApiError> {
        let under_way = app.metrics.under_way.fetch_add(1, Ordering::Relaxed);
        let begun = match under_way >= app.config.max_calls {
            true => Err(ApiError::busy(format!("{under_way} calls are under way already; try again later"))),
            false => session.as_ref().map_or(Ok(()), |session| session.begin_call()),
        };
        if let Err(error) = begun {
            app.metrics.under_way.fetch_sub(1, Ordering::Relaxed);
            Metrics::add(&app.metrics.refused, 1);
            return Err(error);
        }
        let number = app.next_call();
        let rollout = session.as_ref().map_or_else(String::new, |session| session.trace_id.clone());
        let record = CallRecord {
            span_id: hex(&format!("call\0{}\0{rollout}\0{number}", app.run_id), 16),
            response_id: hex(&format!("response\0{}\0{rollout}\0{number}", app.run_id), 24),
            parent: headers.get("traceparent").and_then(|value| trace_parent(value.to_str().ok()?)),
            start_ns: now_ns(),
            operation,
            policy_version: app.policy_version,
            model: app.config.model.clone(),
            ..CallRecord::default()
        };
        Ok(Call { app: Arc::clone(app), session, record, history: None, ended: false })
    }

    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Notes what was asked for, for the record.
    pub fn asked(&mut self, body: &Value, messages: &[Value], tools: &[Value]) {
        self.record.model_requested = body["model"].as_str().map(str::to_owned);
        self.record.messages = messages.to_vec();
        self.record.tools = tools.to_vec();
        self.record.parameters = parameters(body);
    }

    /// The call was answered.
    pub fn finish(mut self, turns: Vec<Turn>) {
        self.record.http_status = 200;
        Metrics::add(&self.app.metrics.answered, 1);
        if let Some(session) = &self.session {
            session.said(turns);
        }
        if let (Some(history), Some(answer)) = (self.history.take(), self.record.choices.first()) {
            self.app.memory.put(&self.record.response_id, history, answer);
        }
        self.end();
    }

    /// The call was refused or failed. Gives the error back, for the client.
    pub fn fail(mut self, error: ApiError) -> ApiError {
        self.record.http_status = error.status.as_u16();
        self.record.error = Some((error.code.unwrap_or(error.kind).to_owned(), error.message.clone()));
        let server = error.status.is_server_error();
        Metrics::add(if server { &self.app.metrics.failed } else { &self.app.metrics.refused }, 1);
        self.end();
        error
    }

    fn end(&mut self) {
        self.ended = true;
        let mut record = std::mem::take(&mut self.record);
        record.end_ns = now_ns().max(record.start_ns);
        let metrics = &self.app.metrics;
        metrics.under_way.fetch_sub(1, Ordering::Relaxed);
        Metrics::add(&metrics.prompt_tokens, record.input_tokens.unwrap_or(0));
        Metrics::add(&metrics.sampled_tokens, record.output_tokens.unwrap_or(0));
        Metrics::add(&metrics.malformed_tool_calls, record.choices.iter().map(|choice| choice.malformed.len()).sum());
        if let Some(session) = &self.session {
            session.end_call(record);
        }
    }
}

/// The client went away: its future, or the body of its answer, was dropped.
impl Drop for Call {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.record.cancelled = true;
        self.record.http_status = CLIENT_GONE;
        self.record.error = Some(("cancelled".to_owned(), "the client went away before the end of the answer".to_owned()));
        Metrics::add(&self.app.metrics.cancelled, 1);
        self.end();
    }
}

/// Trace and span of the client: `00-<trace>-<span>-<flags>` (W3C Trace Context).
fn trace_parent(header: &str) -> Option<(String, String)> {
    let mut parts = header.trim().split('-');
    let (_version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_id = |id: &str, digits: usize| {
        id.len() == digits && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0')
    };
    (is_id(trace, 32) && is_id(span, 16)).then(|| (trace.to_ascii_lowercase(), span.to_ascii_lowercase()))
}

/// The parameters of a request under GenAI's names; others under `gen_ai.request.` too, so that none is lost.
fn parameters(body: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in body.as_object().into_iter().flatten() {
        let name = match key.as_str() {
            "model" | "messages" | "input" | "prompt" | "instructions" | "tools" | "functions" => continue,
            "max_completion_tokens" | "max_output_tokens" => "max_tokens",
            "stop" => "stop_sequences",
            "n" => "choice.count",
            key => key,
        };
        if value.is_null() {
            continue;
        }
        let value = match value {
            Value::String(stop) if name == "stop_sequences" => Value::Array(vec![stop.clone().into()]),
            value => value.clone(),
        };
        out.insert(format!("gen_ai.request.{name}"), value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parents_are_read_from_the_header() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(trace_parent(&format!("00-{trace}-{span}-01")), Some((trace.to_owned(), span.to_owned())));
        for wrong in ["", "00", &format!("00-{}-{span}-01", "0".repeat(32)), "00-xyz-abc-01"] {
            assert_eq!(trace_parent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn parameters_have_the_names_of_genai() {
        let body = json!({ "model": "m", "messages": [], "temperature": 0.5, "stop": "x", "n": 2, "max_completion_tokens": 5, "user": null });
        let expected = json!({ "gen_ai.request.temperature": 0.5, "gen_ai.request.stop_sequences": ["x"], "gen_ai.request.choice.count": 2,
            "gen_ai.request.max_tokens": 5 });
        assert_eq!(Value::Object(parameters(&body)), expected);
    }
}
