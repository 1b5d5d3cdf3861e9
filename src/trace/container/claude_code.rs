//! Claude Code: the lines of its session files.
//!
//! ```text
//! {"type": "user" | "assistant", "uuid", "parentUuid", "sessionId", "timestamp", "isSidechain", "agentId", "requestId",
//!  "message": {"role", "content": text | [block], "id", "model", "usage", "stop_reason"}, "toolUseResult"}
//! {"type": "system" | "summary" | "file-history-snapshot" | …}
//! block: {"type": "text" | "thinking"}, {"type": "tool_use", "id", "name", "input"},
//!        {"type": "tool_result", "tool_use_id", "content", "is_error"}
//! ```
//!
//! One response comes in several lines with one `message.id`, a block in each, and its usage in all of them. The prompt of a response is what
//! its first line's ancestors say, with every result of the tools that they asked for; where no line names a parent, it is what stands
//! before. The lines of a sub-agent (`isSidechain`) are a conversation of their own. The system's prompt, the tools offered and the sampling
//! parameters are not recorded.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::record::{parse, take_id, take_time};
use super::{Keys, ReadOptions, Sink, dialogue, session};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Message, Role, ToolCallRequest, messages_to_json, read_messages};
use crate::trace::object::Object;
use crate::trace::openai::read_usage;
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Kind, Llm, Origin, Span, Tool};

/// Types of lines that name no session.
const NOTES: [&str; 2] = ["summary", "file-history-snapshot"];

/// Whether a record is a line of a session.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let kind = keys.text("type").unwrap_or_default();
    keys.has("sessionId") && keys.has("type") && keys.has_any(&["uuid", "message", "operation"])
        || NOTES.contains(&kind) && keys.has_any(&["leafUuid", "messageId", "snapshot"])
}

/// Reads one line.
pub fn read(text: &str, origin: Origin, _options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let kind = record.text("type").unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "user" | "assistant") {
        let said = record.get("message").ok_or(Reject::MissingField { field: "message" })?;
        if !matches!(said, Value::Json(json) if json.starts_with('{')) {
            return Err(Reject::bad_value("message", &said.as_text().unwrap_or_default(), "an object with a role and a content"));
        }
    }
    let time = take_time(&mut record, "timestamp", origin, sink);
    let name = take_id(&mut record, "sessionId");
    let mut span = session::part(text, Format::ClaudeCode, name.clone(), kind, time, origin);
    span.identity.session_id = name;
    if let Some(id) = take_id(&mut record, "uuid") {
        span.span_id = id;
    }
    span.parent_span_id = take_id(&mut record, "parentUuid");
    sink.spans.push(span);
    Ok(())
}

/// A line with a message.
struct Line {
    span: Span,
    id: String,
    parent: Option<String>,
    /// The sub-agent that it belongs to; empty for the main one.
    chain: String,
    said: Said,
}

enum Said {
    /// A part of the response with this id.
    Answer { response: String, message: Message },
    /// The user's words, or results of tools.
    Heard(Vec<Message>),
}

/// Calls and tools of one session.
pub fn complete(spans: Vec<Span>) -> Vec<Span> {
    let mut known: HashMap<String, Box<str>> = HashMap::new();
    let mut whole = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for span in spans {
        let text = span.part_json.clone().unwrap_or_default();
        let Ok(record) = Attributes::from_json(&text) else { continue };
        if let Some(other) = known.get(&span.span_id) {
            // The same line stands in the files of all sessions that went on from it. What says something else is no line of the session.
            if *other != text {
                whole.push(session::kept(span, &record));
            }
            continue;
        }
        known.insert(span.span_id.clone(), text.clone());
        match line(span, record) {
            Ok(line) => lines.push(line),
            Err(kept) => whole.push(Span { order: Some(format!("{:09}", lines.len())), ..*kept }),
        }
    }
    // Several files of one session interleave by their times.
    if lines.iter().all(|line| line.span.start_ns.is_some()) {
        lines.sort_by_key(|line| (line.span.start_ns, line.span.origin));
    }
    link(&mut lines);
    let session = Session::new(&lines);
    whole.extend(session.spans());
    whole
}

/// A line that has no message is kept as it is.
fn line(mut span: Span, mut record: Attributes<'_>) -> Result<Line, Box<Span>> {
    let text = |record: &Attributes<'_>, key: &str| record.get(key).and_then(Value::as_text).map(|text| text.into_owned());
    let sidechain = record.get("isSidechain").and_then(Value::as_bool) == Some(true);
    let chain = match text(&record, "agentId") {
        Some(agent) => agent,
        None if sidechain => "sidechain".to_owned(),
        None => String::new(),
    };
    let kind = record.take_text("type").unwrap_or_default();
    let Some(message) = record.get("message").and_then(Value::as_text).filter(|_| matches!(kind.as_str(), "user" | "assistant"))
    else {
        return Err(Box::new(session::kept(span, &record)));
    };
    let mut messages = read_messages(&message).unwrap_or_default();
    let members = Attributes::from_json(&message).unwrap_or_default();
    let said = if kind == "assistant" {
        let response =
            members.text("id").map(str::to_owned).or_else(|| text(&record, "requestId")).unwrap_or_else(|| span.span_id.clone());
        let message = messages.pop().unwrap_or(Message { role: Role::Assistant, ..Message::default() });
        let mut llm = Llm {
            provider: Some("anthropic".to_owned()),
            model: members.text("model").map(str::to_owned),
            response_id: members.text("id").map(str::to_owned),
            ..Llm::default()
        };
        if let Some(usage) = members.get("usage").and_then(Value::as_text)
            && let Some(usage) = Object::parse(&usage)
        {
            read_usage(&usage, &mut llm);
            // Anthropic counts what it read from the cache, and what it wrote into it, apart.
            let cached =
                usage.integer("cache_read_input_tokens").unwrap_or(0) + usage.integer("cache_creation_input_tokens").unwrap_or(0);
            llm.input_tokens = llm.input_tokens.map(|tokens| tokens + cached);
            llm.cached_tokens = usage.integer("cache_read_input_tokens");
        }
        let finish_reason = members.text("stop_reason").map(str::to_owned);
        llm.choices.push(Choice { finish_reason, ..Choice::default() });
        span.llm = Some(Box::new(llm));
        Said::Answer { response, message }
    } else {
        Said::Heard(messages)
    };
    drop(members);
    for key in ["message", "uuid", "parentUuid", "sessionId", "timestamp"] {
        record.take(key);
    }
    let (id, parent) = (span.span_id.clone(), span.parent_span_id.clone());
    let span = session::kept(span, &record);
    Ok(Line { span, id, parent, chain, said })
}

/// Where no line names its parent, it is the line before it in the same conversation.
fn link(lines: &mut [Line]) {
    if lines.iter().any(|line| line.parent.is_some()) {
        return;
    }
    let mut latest: HashMap<String, String> = HashMap::new();
    for line in lines {
        line.parent = latest.insert(line.chain.clone(), line.id.clone());
    }
}

/// The lines of a session, and how they hang together.
struct Session<'a> {
    lines: &'a [Line],
    by_id: HashMap<&'a str, usize>,
    /// Lines of each response, in their order.
    responses: BTreeMap<&'a str, Vec<usize>>,
    /// Lines with a result of each tool call.
    results: HashMap<&'a str, usize>,
    /// Requests for tools, by their ids.
    asked: HashMap<&'a str, Asked<'a>>,
}

/// A request for a tool.
struct Asked<'a> {
    request: &'a ToolCallRequest,
    response: &'a str,
    /// Place among the requests of its response.
    position: usize,
}

impl<'a> Session<'a> {
    fn new(lines: &'a [Line]) -> Self {
        let mut session =
            Self { lines, by_id: HashMap::new(), responses: BTreeMap::new(), results: HashMap::new(), asked: HashMap::new() };
        for (index, line) in lines.iter().enumerate() {
            session.by_id.insert(&line.id, index);
            match &line.said {
                Said::Answer { response, message } => {
                    session.responses.entry(response).or_default().push(index);
                    for request in &message.tool_calls {
                        let position = session.asked.values().filter(|asked| asked.response == response).count();
                        let asked = Asked { request, response, position };
                        session.asked.insert(request.id.as_deref().unwrap_or_default(), asked);
                    }
                }
                Said::Heard(messages) => {
                    for id in messages.iter().filter_map(|message| message.tool_call_id.as_deref()) {
                        session.results.entry(id).or_insert(index);
                    }
                }
            }
        }
        session
    }

    /// Calls and tools, in the order of their lines. Past the bound calls keep their answers and go without their prompts.
    fn spans(&self) -> Vec<Span> {
        let names = self.agents();
        let mut prompts_bytes = 0;
        let mut spans = Vec::new();
        let mut told = vec![false; self.lines.len()];
        for (index, line) in self.lines.iter().enumerate() {
            let place = |span: &mut Span, position: usize| {
                span.order = Some(format!("{index:09}.{position:04}"));
                span.parent_span_id = None;
                span.identity.agent_hint = names.get(line.chain.as_str()).cloned();
            };
            match &line.said {
                Said::Answer { response, .. } => {
                    let parts = &self.responses[response.as_str()];
                    if parts[0] != index {
                        continue;
                    }
                    let mut span = line.span.clone();
                    place(&mut span, 0);
                    self.merge(parts, &mut span);
                    span.span_id = response.clone();
                    span.name = "call".to_owned();
                    span.kind = Kind::Llm;
                    let prompt = self.prompt(index, &mut told);
                    prompts_bytes += prompt.iter().map(dialogue::size_of).sum::<usize>();
                    if let Some(llm) = span.llm.as_deref_mut()
                        && prompts_bytes <= dialogue::MAX_PROMPTS_BYTES
                    {
                        llm.input = prompt;
                    }
                    spans.push(span);
                }
                Said::Heard(messages) => {
                    for message in messages.iter().filter(|message| message.role == Role::Tool) {
                        let mut span = line.span.clone();
                        place(&mut span, 0);
                        self.answer(message, index, &mut span);
                        spans.push(span);
                    }
                }
            }
        }
        let unanswered = self.lines.iter().enumerate().filter(|(index, _)| !told[*index]);
        spans.extend(unanswered.filter_map(|(index, line)| unanswered_words(line, index)));
        spans
    }

    /// One response of all its lines.
    fn merge(&self, parts: &[usize], span: &mut Span) {
        let mut whole = Message { role: Role::Assistant, ..Message::default() };
        for part in parts {
            let line = &self.lines[*part];
            let Said::Answer { message, .. } = &line.said else { continue };
            whole.merge(message.clone());
            span.end_ns = line.span.end_ns.or(span.end_ns);
            let (Some(known), Some(said)) = (span.llm.as_deref_mut(), line.span.llm.as_deref()) else { continue };
            known.output_tokens = known.output_tokens.max(said.output_tokens);
            let reason = said.choices[0].finish_reason.clone();
            known.choices[0].finish_reason = reason.or(known.choices[0].finish_reason.take());
        }
        if let Some(llm) = span.llm.as_deref_mut() {
            llm.choices[0].message = whole;
        }
    }

    /// Results of one response stand where the first of them came, in the order of their requests.
    fn answer(&self, message: &Message, line: usize, span: &mut Span) {
        let id = message.tool_call_id.as_deref().unwrap_or_default();
        let asked = self.asked.get(id);
        if let Some(asked) = asked {
            let siblings = self.asked.iter().filter(|(_, other)| other.response == asked.response);
            let first = siblings.filter_map(|(id, _)| self.results.get(id)).min().unwrap_or(&line);
            span.order = Some(format!("{first:09}.{:04}", asked.position));
        }
        let request = asked.map(|asked| asked.request);
        span.span_id = format!("{}:{id}", span.span_id);
        span.name = request.map(|request| request.name.clone()).unwrap_or_default();
        span.kind = Kind::Tool;
        // When the tool was begun is not recorded.
        span.start_ns = None;
        span.tool = Some(Box::new(Tool {
            name: request.map(|request| request.name.clone()),
            call_id: message.tool_call_id.clone(),
            arguments: request.map(|request| request.arguments.clone()),
            result: message.content.clone().or_else(|| message.parts_json.clone()),
            result_is_error: message.is_error,
            ..Tool::default()
        }));
    }

    /// What the response that begins at a line was told. Marks the lines that say it.
    fn prompt(&self, index: usize, told_lines: &mut [bool]) -> Vec<Message> {
        let mut path = Vec::new();
        let mut seen = HashSet::new();
        let mut at = self.parent(index);
        while let Some(line) = at.filter(|line| seen.insert(*line)) {
            path.push(line);
            at = self.parent(line);
        }
        path.reverse();
        let mut told = HashSet::new();
        let mut prompt = Vec::new();
        for line in path {
            told_lines[line] = true;
            match &self.lines[line].said {
                Said::Answer { response, .. } => {
                    if !told.insert(response.as_str()) {
                        continue;
                    }
                    let parts = &self.responses[response.as_str()];
                    let mut whole = Message { role: Role::Assistant, ..Message::default() };
                    for part in parts {
                        if let Said::Answer { message, .. } = &self.lines[*part].said {
                            whole.merge(message.clone());
                        }
                    }
                    let results: Vec<Message> =
                        whole.tool_calls.iter().filter_map(|call| self.result(call.id.as_deref()?, index)).collect();
                    prompt.push(whole);
                    prompt.extend(results);
                }
                // Results stand with their requests.
                Said::Heard(messages) => {
                    let known =
                        |message: &&Message| message.tool_call_id.as_deref().is_none_or(|id| !self.asked.contains_key(id));
                    prompt.extend(messages.iter().filter(known).cloned());
                }
            }
        }
        prompt
    }

    /// The result of a tool call, if it was there before a line.
    fn result(&self, id: &str, before: usize) -> Option<Message> {
        let line = self.results.get(id).copied().filter(|line| *line < before)?;
        let Said::Heard(messages) = &self.lines[line].said else { return None };
        messages.iter().find(|message| message.tool_call_id.as_deref() == Some(id)).cloned()
    }

    fn parent(&self, index: usize) -> Option<usize> {
        self.by_id.get(self.lines[index].parent.as_deref()?).copied()
    }

    /// Names of the sub-agents: of the kind that was asked for with the words that their conversation begins with.
    fn agents(&self) -> BTreeMap<&'a str, String> {
        let mut names = BTreeMap::new();
        for line in self.lines.iter().filter(|line| !line.chain.is_empty()) {
            let Said::Heard(messages) = &line.said else { continue };
            if names.contains_key(line.chain.as_str()) {
                continue;
            }
            let words = messages.first().and_then(|message| message.content.as_deref());
            let kind = self.asked.values().find_map(|asked| {
                let arguments = Object::parse(&asked.request.arguments)?;
                (arguments.text("prompt").as_deref() == words && words.is_some()).then_some(())?;
                Some(arguments.text("subagent_type")?.into_owned())
            });
            names.insert(line.chain.as_str(), kind.unwrap_or_else(|| "subagent".to_owned()));
        }
        names
    }
}

/// The user's words that no call was told: a line for itself.
fn unanswered_words(line: &Line, index: usize) -> Option<Span> {
    let Said::Heard(messages) = &line.said else { return None };
    let words: Vec<Message> = messages.iter().filter(|message| message.role != Role::Tool).cloned().collect();
    // A line of results alone has its tools.
    if words.is_empty() && !messages.is_empty() {
        return None;
    }
    let rest = line.span.attributes_json.clone().unwrap_or_else(|| "{}".to_owned());
    let mut rest = Attributes::from_json(&rest).unwrap_or_default();
    rest.put("messages", Value::Json(messages_to_json(&words).into()));
    Some(Span { order: Some(format!("{index:09}")), ..session::kept(line.span.clone(), &rest) })
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    /// Lines of one session, each `(uuid, parent, rest of the record)`.
    fn calls(lines: &[(&str, Option<&str>, &str)]) -> Vec<Span> {
        let mut spans = Vec::new();
        for ((id, parent, rest), line) in lines.iter().zip(1..) {
            let parent = parent.map_or("null".to_owned(), |parent| format!("\"{parent}\""));
            let record = format!(
                r#"{{"uuid":"{id}","parentUuid":{parent},"sessionId":"s","timestamp":"2026-11-22T12:00:{line:02}.000Z",{rest}}}"#
            );
            let mut sink = sink_of(&record, &[]);
            assert_eq!(codes(&sink), [""; 0], "{record}");
            sink.spans[0].origin.line = line;
            spans.append(&mut sink.spans);
        }
        spans.reverse();
        session::complete(spans)
    }

    const QUESTION: &str = r#""type":"user","message":{"role":"user","content":"q"}"#;
    const ASKS: &str = r#""type":"assistant","message":{"id":"m1","role":"assistant","model":"c","stop_reason":null,"usage":{"input_tokens":2,"cache_read_input_tokens":3,"output_tokens":1},"content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"x":1}}]}"#;
    const ASKS_MORE: &str = r#""type":"assistant","message":{"id":"m1","role":"assistant","model":"c","stop_reason":"tool_use","usage":{"input_tokens":2,"cache_read_input_tokens":3,"output_tokens":9},"content":[{"type":"tool_use","id":"t2","name":"Read","input":{}}]}"#;
    const FAILS: &str = r#""type":"user","toolUseResult":"Error: no","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"no","is_error":true}]}"#;
    const WORKS: &str = r#""type":"user","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"t2","content":[{"type":"text","text":"4"}]}]}"#;
    const ANSWERS: &str = r#""type":"assistant","message":{"id":"m2","role":"assistant","model":"c","stop_reason":"end_turn","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"4"}]}"#;

    #[test]
    fn a_response_in_several_lines_is_one_call() {
        // Results hang below the lines that asked, so that the path to the answer leads past only one of them.
        let spans = calls(&[
            ("a", None, QUESTION),
            ("b", Some("a"), ASKS),
            ("c", Some("b"), ASKS_MORE),
            ("d", Some("b"), FAILS),
            ("e", Some("c"), WORKS),
            ("f", Some("e"), ANSWERS),
        ]);
        let kinds: Vec<Kind> = spans.iter().map(|span| span.kind).collect();
        assert_eq!(kinds, [Kind::Llm, Kind::Tool, Kind::Tool, Kind::Llm]);
        let (first, last) = (spans[0].llm.as_deref().unwrap(), spans[3].llm.as_deref().unwrap());
        assert_eq!((first.input_tokens, first.output_tokens, first.choices[0].message.tool_calls.len()), (Some(5), Some(9), 2));
        assert_eq!(first.choices[0].finish_reason.as_deref(), Some("tool_use"));
        let roles: Vec<&str> = last.input.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "tool"]);
        assert_eq!(last.choices[0].message.reasoning.as_deref(), Some("hm"));
        let failed = spans[1].tool.as_deref().unwrap();
        assert_eq!(
            (failed.name.as_deref(), failed.result_is_error, failed.result.as_deref()),
            (Some("Bash"), Some(true), Some("no"))
        );
        assert_eq!(spans[2].tool.as_deref().unwrap().result.as_deref(), Some("4"));
    }

    #[test]
    fn a_branch_does_not_hear_its_sibling() {
        let spans = calls(&[
            ("a", None, QUESTION),
            ("b", Some("a"), ANSWERS),
            ("c", Some("a"), r#""type":"user","message":{"role":"user","content":"or rather"}"#),
            ("d", Some("c"), r#""type":"assistant","message":{"id":"m3","role":"assistant","content":"x"}"#),
        ]);
        assert_eq!(spans[1].llm.as_deref().unwrap().input.len(), 2);
    }

    #[test]
    fn words_that_nobody_answered_are_kept() {
        // Found by fuzzing: a session without a call had no row at all.
        let spans = calls(&[("a", None, QUESTION)]);
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].attributes_json.as_deref(), Some(r#"{"messages":[{"role":"user","content":"q"}]}"#));
        let more = r#""type":"user","message":{"role":"user","content":"and then?"}"#;
        let spans = calls(&[("a", None, QUESTION), ("b", Some("a"), ANSWERS), ("c", Some("b"), more)]);
        let kinds: Vec<(Kind, u64)> = spans.iter().map(|span| (span.kind, span.origin.line)).collect();
        assert_eq!(kinds, [(Kind::Llm, 2), (Kind::Other, 3)]);
        // What says something else under the id of a line that is known.
        let spans = calls(&[("a", None, QUESTION), ("b", Some("a"), ANSWERS), ("b", Some("a"), more)]);
        assert_eq!(spans.len(), 2);
    }

    #[test]
    fn lines_without_parents_follow_each_other_and_sub_agents_stand_apart() {
        let task = r#""type":"assistant","message":{"id":"m0","role":"assistant","content":[{"type":"tool_use","id":"t0","name":"Task","input":{"prompt":"look","subagent_type":"explorer"}}]}"#;
        let spans = calls(&[
            ("a", None, QUESTION),
            ("b", None, task),
            ("c", None, r#""isSidechain":true,"type":"user","message":{"role":"user","content":"look"}"#),
            ("d", None, r#""isSidechain":true,"type":"assistant","message":{"id":"m8","role":"assistant","content":"seen"}"#),
            (
                "e",
                None,
                r#""type":"user","message":{"role":"user","content":[{"type":"tool_result","tool_use_id":"t0","content":"seen"}]}"#,
            ),
            ("f", None, ANSWERS),
        ]);
        let prompts: Vec<_> = spans
            .iter()
            .filter_map(|span| Some((span.identity.agent_hint.as_deref(), span.llm.as_deref()?.input.len())))
            .collect();
        assert_eq!(prompts, [(None, 1), (Some("explorer"), 1), (None, 3)]);
    }

    #[test]
    fn lines_that_cannot_be_used() {
        let line = |rest: &str| codes(&sink_of(&format!(r#"{{"uuid":"u","sessionId":"s",{rest}}}"#), &[]));
        assert_eq!(line(r#""type":"user","message":"error""#), ["bad_value"]);
        assert_eq!(line(r#""type":"assistant""#), ["missing_field"]);
        let notes = sink_of(r#"{"type":"summary","summary":"x","leafUuid":"u"}"#, &[]);
        assert_eq!(session::complete(notes.spans)[0].attributes_json.as_deref(), Some(r#"{"leafUuid":"u","summary":"x"}"#));
    }
}
