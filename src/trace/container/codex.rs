//! Codex: the lines of its session files (`rollout-*.jsonl`), and those of its first versions.
//!
//! ```text
//! {"timestamp", "type": "session_meta", "payload": {"id", "instructions", "base_instructions": {"text"}, …}}
//! {"timestamp", "type": "turn_context", "payload": {"model", "cwd", …}}
//! {"timestamp", "type": "response_item", "payload": item}
//! {"timestamp", "type": "event_msg", "payload": {"type": "token_count", "info": {"last_token_usage"}} | …}
//! {"timestamp", "type": "compacted", "payload": {"message", "replacement_history"}}
//! item: message, reasoning, function_call, function_call_output, custom_tool_call, custom_tool_call_output, …
//! first versions: {"id", "timestamp", "instructions"}, then items alone, and {"record_type": "state"}
//! ```
//!
//! A response is the items of the model up to the next thing that it is told; where its tokens were counted, it has ended too. What was told
//! is the session so far. Only the first line names the session: the others are those of its file. The tools offered, sampling parameters
//! and finish reasons are not recorded.

use std::collections::{BTreeSet, HashMap};

use super::dialogue::{Dialogue, message};
use super::record::{parse, take_id, take_time};
use super::{Keys, ReadOptions, Sink, session};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Message, Role, read_messages};
use crate::trace::object::Object;
use crate::trace::openai::read_usage;
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Kind, Llm, Origin, Span};

/// Types of the lines of a session, whose content is in `payload`.
const LINES: [&str; 5] = ["session_meta", "turn_context", "response_item", "event_msg", "compacted"];

/// Types of items that a line of the first versions may be.
const ITEMS: [&str; 8] = [
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "local_shell_call",
    "web_search_call",
];

/// Whether a record is a line of a session.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let kind = keys.text("type").unwrap_or_default();
    keys.begins("payload", b'{') && LINES.contains(&kind)
        || ITEMS.contains(&kind) && keys.has_any(&["role", "summary", "call_id", "action"])
        || keys.has("record_type")
        || keys.has_all(&["id", "timestamp", "instructions"])
}

/// Reads one line.
pub fn read(text: &str, origin: Origin, _options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let time = take_time(&mut record, "timestamp", origin, sink);
    let kind = record.take_text("type").or_else(|| record.take_text("record_type"));
    let session_id = match kind.as_deref() {
        Some("session_meta") => {
            let payload = record.take_object("payload");
            let mut payload = Attributes::of_object(payload.as_ref());
            Some(take_id(&mut payload, "id").ok_or(Reject::MissingField { field: "payload.id" })?)
        }
        None => take_id(&mut record, "id"),
        _ => None,
    };
    let name = kind.unwrap_or_else(|| "session_meta".to_owned());
    let mut span = session::part(text, Format::Codex, session_id.clone(), name, time, origin);
    span.identity.session_id = session_id;
    sink.spans.push(span);
    Ok(())
}

/// Calls and tools of one session. Its lines are in the order of their files; of a session in two files, what the first has counts once.
pub fn complete(spans: Vec<Span>) -> Vec<Span> {
    let Some(first) = spans.first() else { return spans };
    let run = Span {
        part_json: None,
        span_id: "item.".to_owned(),
        order: Some(String::new()),
        name: String::new(),
        kind_evidence: Some("payload.type".to_owned()),
        attributes_json: None,
        ..first.clone()
    };
    let file = first.origin.file;
    let known: BTreeSet<Box<str>> =
        spans.iter().filter(|span| span.origin.file == file).filter_map(|span| span.part_json.clone()).collect();
    let mut talk = Talk {
        dialogue: Dialogue::new(run),
        open: None,
        unanswered: Vec::new(),
        model: None,
        exit_codes: HashMap::new(),
        whole: Vec::new(),
    };
    for span in spans {
        let text = span.part_json.clone().unwrap_or_default();
        if span.origin.file != file && known.contains(&text) {
            continue;
        }
        if let Ok(record) = Attributes::from_json(&text) {
            talk.line(span, record);
        }
    }
    talk.finish()
}

/// A session that is being read.
struct Talk {
    dialogue: Dialogue,
    /// The response that is not at its end yet, and its first line.
    open: Option<(Span, Message)>,
    /// What was told since the latest response.
    unanswered: Vec<Span>,
    model: Option<String>,
    /// Of commands, by call id, where an event tells.
    exit_codes: HashMap<String, i32>,
    whole: Vec<Span>,
}

impl Talk {
    fn line(&mut self, span: Span, mut record: Attributes<'_>) {
        let payload_object = record.take_object("payload");
        let mut payload = Attributes::of_object(payload_object.as_ref());
        let kind = record.text("type").unwrap_or_default().to_owned();
        if payload_object.is_none() && ITEMS.contains(&kind.as_str()) {
            let text = span.part_json.clone().unwrap_or_default();
            return self.item(span, &text);
        }
        match kind.as_str() {
            "response_item" => {
                let text = payload_object.as_ref().and_then(Value::as_text).unwrap_or_default();
                return self.item(span, &text);
            }
            "turn_context" => self.model = payload.text("model").map(str::to_owned).or(self.model.take()),
            "event_msg" => self.event(&payload),
            "compacted" => self.compacted(&payload),
            _ => {
                let base = Attributes::of_object(payload.get("base_instructions"));
                let instructions = base.text("text").or(payload.text("instructions")).or(record.text("instructions"));
                if let Some(instructions) = instructions.filter(|_| self.dialogue.calls().next().is_none()) {
                    self.dialogue.hear(message(Role::System, Some(&Value::Str(instructions.to_owned().into()))));
                }
            }
        }
        payload.fill_from(&record);
        payload.take("timestamp");
        self.keep(span, &payload);
    }

    /// A line that is neither call nor tool, for itself.
    fn keep(&mut self, span: Span, rest: &Attributes<'_>) {
        let order = self.dialogue.place(Kind::Other).order;
        self.whole.push(Span { order, ..session::kept(span, rest) });
    }

    fn item(&mut self, span: Span, text: &str) {
        let messages = read_messages(text).unwrap_or_default();
        if messages.is_empty() {
            let rest = Attributes::from_json(text).unwrap_or_default();
            return self.keep(span, &rest);
        }
        for said in messages {
            match said.role {
                Role::Assistant => match &mut self.open {
                    Some((first, whole)) => {
                        whole.merge(said);
                        first.end_ns = span.end_ns.or(first.end_ns);
                    }
                    None => self.open = Some((span.clone(), said)),
                },
                Role::Tool => {
                    self.close();
                    self.result(&span, said);
                }
                _ => {
                    self.close();
                    self.dialogue.hear(said);
                    self.unanswered.push(span.clone());
                }
            }
        }
    }

    /// The end of a response.
    fn close(&mut self) {
        let Some((line, said)) = self.open.take() else { return };
        let llm = Llm { provider: Some("openai".to_owned()), model: self.model.clone(), ..Llm::default() };
        let choice = Choice { message: said, ..Choice::default() };
        let span = self.dialogue.answer_within_bounds(choice, llm);
        span.origin = line.origin;
        (span.start_ns, span.end_ns, span.time_precision_ns) = (line.start_ns, line.end_ns, line.time_precision_ns);
        self.unanswered.clear();
    }

    /// Keeps what was told and not answered: the next call is not told it, or there is none.
    fn give_up_waiting(&mut self) {
        for line in std::mem::take(&mut self.unanswered) {
            let text = line.part_json.clone().unwrap_or_default();
            self.keep(line, &Attributes::from_json(&text).unwrap_or_default());
        }
    }

    /// `{"output", "metadata": {"exit_code"}}` in a string, or a text that begins with the exit code.
    fn result(&mut self, line: &Span, mut told: Message) {
        let mut exit_code = told.tool_call_id.as_ref().and_then(|id| self.exit_codes.remove(id));
        if let Some(object) = told.content.as_deref().and_then(Object::parse) {
            exit_code = exit_code.or_else(|| i32::try_from(object.object("metadata")?.integer("exit_code")?).ok());
            if object.get("metadata").is_some()
                && let Some(output) = object.text("output")
            {
                let output = output.into_owned();
                told.content = Some(output);
            }
        } else if let Some(text) = &told.content {
            exit_code = exit_code.or_else(|| stated_exit_code(text));
        }
        let span = self.dialogue.result(told);
        span.origin = line.origin;
        (span.start_ns, span.end_ns, span.time_precision_ns) = (None, line.end_ns, line.time_precision_ns);
        if let Some(tool) = span.tool.as_deref_mut() {
            tool.exit_code = exit_code;
        }
    }

    fn event(&mut self, payload: &Attributes<'_>) {
        match payload.text("type") {
            Some("token_count") => {
                let info = Attributes::of_object(payload.get("info"));
                let Some(usage) = info.get("last_token_usage").and_then(Value::as_text) else { return };
                self.close();
                let Some(usage) = Object::parse(&usage) else { return };
                let uncounted = self.dialogue.calls_mut().last().and_then(|call| call.llm.as_deref_mut());
                if let Some(llm) = uncounted.filter(|llm| llm.input_tokens.is_none()) {
                    read_usage(&usage, llm);
                    llm.cached_tokens = llm.cached_tokens.or_else(|| usage.integer("cached_input_tokens"));
                    llm.reasoning_tokens = llm.reasoning_tokens.or_else(|| usage.integer("reasoning_output_tokens"));
                }
            }
            Some("exec_command_end") => {
                let code = payload.get("exit_code").and_then(Value::as_int).and_then(|code| i32::try_from(code).ok());
                if let (Some(id), Some(code)) = (payload.text("call_id"), code) {
                    self.exit_codes.insert(id.to_owned(), code);
                }
            }
            _ => {}
        }
    }

    /// A summary in the place of what was said.
    fn compacted(&mut self, payload: &Attributes<'_>) {
        self.close();
        self.give_up_waiting();
        self.dialogue.forget();
        let history = payload.get("replacement_history").and_then(Value::as_text);
        let history = history.and_then(|history| read_messages(&history).ok()).unwrap_or_default();
        if history.is_empty() {
            self.dialogue.hear(message(Role::User, payload.get("message")));
        }
        history.into_iter().for_each(|said| self.dialogue.hear(said));
    }

    fn finish(mut self) -> Vec<Span> {
        self.close();
        self.give_up_waiting();
        let mut spans = self.dialogue.into_spans();
        spans.append(&mut self.whole);
        spans
    }
}

/// `Exit code: 1` or `Process exited with code 1` in the first lines of a result.
fn stated_exit_code(text: &str) -> Option<i32> {
    text.lines().take(4).find_map(|line| {
        let code = line.strip_prefix("Exit code: ").or_else(|| line.strip_prefix("Process exited with code "))?;
        code.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    fn calls(lines: &[&str]) -> Vec<Span> {
        let mut spans = Vec::new();
        for (record, line) in lines.iter().zip(1..) {
            let mut sink = sink_of(record, &[]);
            assert_eq!(codes(&sink), [""; 0], "{record}");
            sink.spans[0].origin.line = line;
            spans.append(&mut sink.spans);
        }
        spans.reverse();
        session::complete(spans)
    }

    fn item(payload: &str) -> String {
        format!(r#"{{"timestamp":"2026-11-22T12:00:00.000Z","type":"response_item","payload":{payload}}}"#)
    }

    #[test]
    fn responses_end_where_something_is_told_or_counted() {
        let spans = calls(&[
            r#"{"timestamp":"2026-11-22T12:00:00.000Z","type":"session_meta","payload":{"id":"s","instructions":"be brief"}}"#,
            r#"{"timestamp":"2026-11-22T12:00:00.000Z","type":"turn_context","payload":{"model":"m"}}"#,
            &item(r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"q"}]}"#),
            &item(r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}]}"#),
            &item(r#"{"type":"function_call","name":"shell","arguments":"{\"command\":[\"ls\"]}","call_id":"c1"}"#),
            r#"{"timestamp":"2026-11-22T12:00:01.000Z","type":"event_msg","payload":{"type":"token_count","info":{"last_token_usage":{"input_tokens":7,"output_tokens":3,"cached_input_tokens":2}}}}"#,
            &item(
                r#"{"type":"function_call_output","call_id":"c1","output":"{\"output\":\"no\",\"metadata\":{\"exit_code\":2}}"}"#,
            ),
            &item(r#"{"type":"function_call","name":"shell","arguments":"{}","call_id":"c2"}"#),
            &item(r#"{"type":"function_call_output","call_id":"c2","output":"Exit code: 0\nWall time: 1 seconds\nOutput:\nok"}"#),
            &item(r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"done"}]}"#),
        ]);
        let kinds: Vec<Kind> = spans.iter().map(|span| span.kind).filter(|kind| *kind != Kind::Other).collect();
        assert_eq!(kinds, [Kind::Llm, Kind::Tool, Kind::Llm, Kind::Tool, Kind::Llm]);
        let prompts: Vec<usize> = spans.iter().filter_map(|span| Some(span.llm.as_ref()?.input.len())).collect();
        assert_eq!(prompts, [2, 4, 6]);
        let first = spans[0].llm.as_deref().unwrap();
        assert_eq!((first.input_tokens, first.cached_tokens, first.model.as_deref()), (Some(7), Some(2), Some("m")));
        let said = &first.choices[0].message;
        assert_eq!((said.reasoning.as_deref(), said.tool_calls.len()), (Some("hm"), 1));
        let tools: Vec<_> = spans.iter().filter_map(|span| span.tool.as_deref()).map(|tool| tool.exit_code).collect();
        assert_eq!(tools, [Some(2), Some(0)]);
        assert_eq!(spans[1].tool.as_deref().unwrap().result.as_deref(), Some("no"));
    }

    #[test]
    fn what_nobody_answered_is_kept() {
        // Found by fuzzing: these lines had no row at all.
        let told = item(r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"q"}]}"#);
        let answer = item(r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"a"}]}"#);
        let check = |lines: &[&str], expected: &[(Kind, u64)]| {
            let kinds: Vec<(Kind, u64)> = calls(lines).iter().map(|span| (span.kind, span.origin.line)).collect();
            assert_eq!(kinds, expected, "{lines:?}");
        };
        check(&[&told], &[(Kind::Other, 1)]);
        check(&[&told, &answer, &told], &[(Kind::Llm, 2), (Kind::Other, 3)]);
    }

    #[test]
    fn a_summary_takes_the_place_of_what_was_said() {
        let said = item(r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"a"}]}"#);
        let spans = calls(&[
            r#"{"id":"s","timestamp":"2026-11-22T12:00:00.000Z","instructions":null}"#,
            &item(r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"q"}]}"#),
            &said,
            r#"{"timestamp":"2026-11-22T12:00:00.000Z","type":"compacted","payload":{"message":"so far"}}"#,
            &said,
        ]);
        let prompts: Vec<_> = spans.iter().filter_map(|span| Some(span.llm.as_ref()?.input[0].content.clone())).collect();
        assert_eq!(prompts, [Some("q".to_owned()), Some("so far".to_owned())]);
    }

    #[test]
    fn lines_that_cannot_be_used() {
        let codes = |record: &str| codes(&sink_of(record, &[]));
        assert_eq!(codes(r#"{"type":"session_meta","payload":{}}"#), ["missing_field"]);
        assert_eq!(codes(r#"{"type":"response_item","payload":5}"#), ["unknown_format"]);
    }
}
