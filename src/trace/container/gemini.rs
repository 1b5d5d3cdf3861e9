//! Gemini CLI: one chat session a document.
//!
//! ```text
//! {"sessionId", "projectHash", "startTime", "lastUpdated",
//!  "messages": [{"id", "timestamp", "type": "user", "content"},
//!               {"id", "timestamp", "type": "gemini", "content", "model", "thoughts": [{"subject", "description"}],
//!                "tokens": {"input", "output", "cached", "thoughts"},
//!                "toolCalls": [{"id", "name", "args", "status", "timestamp",
//!                               "result": [{"functionResponse": {"response": {"output" | "error"}}}, {"text"}]}]}]}
//! ```
//!
//! A message of the model is one LLM call. The system's prompt, the tools offered and the sampling parameters are not recorded.

use super::dialogue::{Dialogue, message};
use super::record::{parse, take_id, take_time};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Message, Role, ToolCallRequest};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, RolloutRecord, Span};

/// Whether a record is a session.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.has("sessionId") && keys.begins("messages", b'[')
}

/// Reads one session.
pub fn read(text: &str, origin: Origin, _options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let session = take_id(&mut record, "sessionId").ok_or(Reject::MissingField { field: "sessionId" })?;
    let mut dialogue = Dialogue::new(Span {
        origin,
        format: Format::Gemini,
        trace_id: Some(session.clone()),
        span_id: "message.".to_owned(),
        order: Some(String::new()),
        kind_evidence: Some("type".to_owned()),
        identity: Identity { session_id: Some(session), ..Identity::default() },
        ..Span::default()
    });
    let messages = record.take("messages").ok_or(Reject::MissingField { field: "messages" })?;
    for said in messages.elements() {
        let said = Attributes::from_json(said).map_err(|source| Reject::Shape { container: "messages", source })?;
        read_message(said, &mut dialogue, origin, sink)?;
    }
    let mut about = dialogue.place(Kind::Rollout);
    about.span_id = "session".to_owned();
    about.name = "session".to_owned();
    about.order = None;
    about.rollout = Some(Box::<RolloutRecord>::default());
    let start = take_time(&mut record, "startTime", origin, sink);
    let end = take_time(&mut record, "lastUpdated", origin, sink);
    (about.start_ns, about.end_ns) = (start.map(|time| time.ns), end.map(|time| time.ns));
    about.time_precision_ns = start.or(end).map(|time| time.precision_ns);
    about.attributes_json = record.to_json();
    sink.spans.push(about);
    sink.spans.extend(dialogue.into_spans());
    Ok(())
}

fn read_message(mut said: Attributes<'_>, dialogue: &mut Dialogue, origin: Origin, sink: &mut Sink) -> Result<(), Reject> {
    let time = take_time(&mut said, "timestamp", origin, sink);
    let content = said.take("content");
    match said.take_text("type").as_deref() {
        Some("user") => dialogue.hear(message(Role::User, content.as_ref())),
        Some("gemini") => {
            let mut answer = message(Role::Assistant, content.as_ref());
            answer.content = answer.content.filter(|content| !content.is_empty());
            let thoughts = said.take("thoughts");
            answer.reasoning = reasoning(thoughts.as_ref());
            let calls = said.take("toolCalls");
            let mut calls: Vec<Attributes<'_>> =
                calls.iter().flat_map(Value::elements).filter_map(|call| Attributes::from_json(call).ok()).collect();
            answer.tool_calls = calls.iter_mut().map(request).collect();
            let tokens = said.take_object("tokens");
            let tokens = Attributes::of_object(tokens.as_ref());
            let count = |key| tokens.get(key).and_then(Value::as_int);
            let llm = Llm {
                provider: Some("google".to_owned()),
                model: said.take_text("model"),
                input_tokens: count("input"),
                output_tokens: count("output"),
                cached_tokens: count("cached"),
                reasoning_tokens: count("thoughts"),
                ..Llm::default()
            };
            let span = dialogue.answer(Choice { message: answer, ..Choice::default() }, llm)?;
            span.start_ns = time.map(|time| time.ns);
            span.time_precision_ns = time.map(|time| time.precision_ns);
            span.attributes_json = said.to_json();
            for call in &mut calls {
                read_result(call, dialogue, origin, sink);
            }
        }
        // Notices of the program; the model does not see them.
        _ => {}
    }
    Ok(())
}

fn reasoning(thoughts: Option<&Value<'_>>) -> Option<String> {
    let thoughts = thoughts?.elements().into_iter().filter_map(|thought| Attributes::from_json(thought).ok());
    let texts: Vec<String> = thoughts
        .map(|thought| {
            [thought.text("subject"), thought.text("description")].into_iter().flatten().collect::<Vec<_>>().join("\n")
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}

fn request(call: &mut Attributes<'_>) -> ToolCallRequest {
    ToolCallRequest {
        id: take_id(call, "id"),
        name: call.text("name").unwrap_or_default().to_owned(),
        arguments: call.take_text("args").unwrap_or_default(),
    }
}

/// A call that was not run has no result: the user refused it, or the session ended.
fn read_result(call: &mut Attributes<'_>, dialogue: &mut Dialogue, origin: Origin, sink: &mut Sink) {
    let time = take_time(call, "timestamp", origin, sink);
    let status = call.take_text("status");
    let Some(result) = call.take("result") else { return };
    let mut texts: Vec<String> = Vec::new();
    let mut id = None;
    let mut failed = false;
    for part in result.elements() {
        let part = Attributes::from_json(part).unwrap_or_default();
        texts.extend(part.text("text").map(str::to_owned));
        let function = Attributes::of_object(part.get("functionResponse"));
        id = id.or_else(|| function.text("id").map(str::to_owned));
        let Some(response) = function.get("response") else { continue };
        let members = Attributes::of_object(Some(response));
        failed |= members.contains("error");
        texts.extend(members.get("output").or(members.get("error")).unwrap_or(response).as_text().map(|text| text.into_owned()));
    }
    let is_error = match status.as_deref() {
        Some("error") => Some(true),
        Some("success") => Some(failed),
        _ => failed.then_some(true),
    };
    let content = Some(texts.join("\n")).filter(|_| !texts.is_empty());
    let name = call.text("name").map(str::to_owned);
    let told = Message { role: Role::Tool, content, is_error, tool_call_id: id, name, ..Message::default() };
    let span = dialogue.result(told);
    span.end_ns = time.map(|time| time.ns);
    span.time_precision_ns = time.map(|time| time.precision_ns);
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};

    #[test]
    fn statuses_of_tools() {
        for (call, is_error, result) in [
            (
                r#""status":"error","result":[{"functionResponse":{"id":"c","response":{"error":"no such file"}}}]"#,
                Some(true),
                "no such file",
            ),
            (
                r#""status":"success","result":[{"functionResponse":{"id":"c","response":{"output":"4"}}},{"text":"more"}]"#,
                Some(false),
                "4\nmore",
            ),
            (r#""status":"cancelled","result":[{"functionResponse":{"id":"c","response":{"rows":1}}}]"#, None, r#"{"rows":1}"#),
        ] {
            let sink = sink_of(
                &format!(
                    r#"{{"sessionId":"s","messages":[{{"type":"user","content":"q"}},{{"type":"info","content":"hello"}},
                        {{"type":"gemini","content":"","toolCalls":[{{"id":"c","name":"f","args":{{"x":1}},{call}}}]}}]}}"#
                ),
                &[],
            );
            assert_eq!(codes(&sink), [""; 0]);
            let tool = sink.spans.iter().find_map(|span| span.tool.as_deref()).unwrap();
            assert_eq!((tool.result_is_error, tool.result.as_deref(), tool.name.as_deref()), (is_error, Some(result), Some("f")));
            assert_eq!(sink.spans.iter().find_map(|span| span.llm.as_deref()).unwrap().input.len(), 1);
        }
        let refused = sink_of(
            r#"{"sessionId":"s","messages":[{"type":"gemini","content":"x","toolCalls":[{"id":"c","name":"f","status":"cancelled"}]}]}"#,
            &[],
        );
        assert!(refused.spans.iter().all(|span| span.tool.is_none()));
        assert_eq!(codes(&sink_of(r#"{"sessionId":"s","messages":[5]}"#, &[])), ["bad_value"]);
    }
}
