//! LangSmith: exported runs, feedback, and what its SDKs send over the wire.
//!
//! ```text
//! {"id" (or "run_id"), "trace_id", "dotted_order", "run_type", "name", "start_time", "inputs", "outputs", "extra", …}   run
//! {"run_id", "trace_id", "key", "score", "value", "comment", "feedback_source"}                                           feedback
//! {"post": [run, …], "patch": [run, …]}                      creations and updates, as one request has them
//! {"part": "post.<run id>.inputs", "value": {…}}             one part of a multipart request
//! ```
//!
//! On the wire a run comes in several records. Each becomes a span with `part_json`, and [`complete`] makes one span of them.

mod run;

use std::collections::{BTreeMap, BTreeSet};

use super::record::{parse, reward_value, take_id, take_time};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value, push_json_string};
use crate::trace::reject::Reject;
use crate::trace::span::{Format, Kind, Origin, Reward, RewardTarget, Span};

/// Whether a record is a run, feedback or something of the wire.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.has_any(&["run_type", "dotted_order"])
        || (keys.has_any(&["run_id", "trace_id"]) && keys.has("key") && keys.has_any(&["score", "value"]))
        || (keys.has("value") && keys.has_any(&["part", "path"]))
        || keys.begins("post", b'[')
        || keys.begins("patch", b'[')
}

/// Reads one record. In a request, what cannot be used is set aside alone.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    if record.contains("post") || record.contains("patch") {
        read_request(&record, origin, options, sink);
        return Ok(());
    }
    if let Some(path) = record.text("part").or_else(|| record.text("path")).map(str::to_owned) {
        let value = record.take("value").ok_or(Reject::MissingField { field: "value" })?;
        return read_wire(&path, &value, origin, options, sink);
    }
    if record.contains("key") && !record.contains("run_type") {
        return read_feedback(record, origin, sink);
    }
    read_run(record, text, origin, options, sink)
}

/// A run and the runs in its `child_runs`.
fn read_run(
    mut record: Attributes<'_>,
    text: &str,
    origin: Origin,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<(), Reject> {
    let children = record.take("child_runs").unwrap_or(Value::Null);
    let whole = ["run_type", "start_time", "end_time", "inputs"].iter().all(|key| record.contains(key));
    let mut span = run::span(record, origin, options, sink)?;
    if !whole {
        span.part_json = Some(text.into());
    }
    sink.spans.push(span);
    for part in children.elements() {
        let origin = Origin { position: next_position(origin, sink), ..origin };
        sink.part(part, origin, |sink| read_run(parse(part)?, part, origin, options, sink));
    }
    Ok(())
}

/// The place after the spans that were read from the same record.
fn next_position(origin: Origin, sink: &Sink) -> u32 {
    let of_record =
        |span: &&Span| (span.origin.file, span.origin.line, span.origin.offset) == (origin.file, origin.line, origin.offset);
    sink.spans.last().filter(of_record).map_or(origin.position, |last| last.origin.position.saturating_add(1))
}

fn read_request(record: &Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) {
    for key in ["post", "patch"] {
        for part in record.get(key).map(Value::elements).unwrap_or_default() {
            let origin = Origin { position: next_position(origin, sink), ..origin };
            sink.part(part, origin, |sink| read_run(parse(part)?, part, origin, options, sink));
        }
    }
}

/// One part of a multipart request, named `post.<run id>`, `post.<run id>.<field>` or `feedback.<id>`; or a whole request, named by its
/// path.
fn read_wire(name: &str, value: &Value<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut text = String::new();
    value.push_json(&mut text);
    let mut words = name.splitn(3, '.');
    match (words.next(), words.next(), words.next()) {
        (Some("post" | "patch"), Some(id), None) => {
            let mut record = parse(&text)?;
            record.put("id", Value::Str(id.into()));
            read_part(&record, origin, options, sink)
        }
        (Some("post" | "patch" | "attachment"), Some(id), Some(field)) => {
            let mut record = Attributes::default();
            record.put("id", Value::Str(id.into()));
            let field = if name.starts_with("attachment") { format!("attachments.{field}") } else { field.to_owned() };
            record.put(field, value.clone());
            read_part(&record, origin, options, sink)
        }
        (Some("feedback"), Some(_), _) => read_feedback(parse(&text)?, origin, sink),
        _ => read(&text, origin, options, sink),
    }
}

fn read_part(record: &Attributes<'_>, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let text = record.to_json().unwrap_or_default();
    let mut span = run::span(parse(&text)?, origin, options, sink)?;
    span.part_json = Some(text.into());
    sink.spans.push(span);
    Ok(())
}

/// What a grader, a person or the agent said about a run. About the root run, it is about the whole rollout.
fn read_feedback(mut record: Attributes<'_>, origin: Origin, sink: &mut Sink) -> Result<(), Reject> {
    let name = take_id(&mut record, "key").ok_or(Reject::MissingField { field: "key" })?;
    let run_id = take_id(&mut record, "run_id");
    let trace_id = take_id(&mut record, "trace_id");
    if run_id.is_none() && trace_id.is_none() {
        return Err(Reject::MissingField { field: "run_id" });
    }
    let time = take_time(&mut record, "created_at", origin, sink);
    let mut reward = Reward { name: name.clone(), primary: true, ..Reward::default() };
    match record.take("score") {
        Some(Value::Bool(flag)) => reward.value = Some(f64::from(u8::from(flag))),
        Some(score) => {
            let text = score.as_text().unwrap_or_default().into_owned();
            reward.value =
                Some(reward_value(&score).ok_or_else(|| Reject::bad_value("score", &text, "a finite number or a boolean"))?);
        }
        None => {}
    }
    match record.take("value") {
        Some(value) if reward.value.is_none() && reward_value(&value).is_some() => reward.value = reward_value(&value),
        value => reward.label = value.and_then(Value::into_text),
    }
    reward.comment = record.take_text("comment");
    let source = Attributes::of_object(record.get("feedback_source"));
    reward.source = match source.text("type") {
        Some("app") => Some("human".to_owned()),
        Some("model" | "auto_eval") => Some("grader".to_owned()),
        _ => None,
    };
    drop(source);
    reward.is_final = run_id.is_none() || run_id == trace_id;
    reward.target = Some(RewardTarget { trace_id: trace_id.clone(), span_id: run_id, ..RewardTarget::default() });
    sink.spans.push(Span {
        origin,
        format: Format::LangSmith,
        trace_id,
        span_id: take_id(&mut record, "id").unwrap_or_else(|| super::record::placed_id(origin)),
        name,
        kind: Kind::Reward,
        kind_evidence: Some("key".to_owned()),
        start_ns: time.map(|time| time.ns),
        end_ns: time.map(|time| time.ns),
        time_precision_ns: time.map(|time| time.precision_ns),
        rewards: vec![reward],
        attributes_json: record.to_json(),
        ..Span::default()
    });
    Ok(())
}

/// Makes one span of all the parts of each run, and drops mean scores where the scores themselves are there. For the spans of one or
/// more whole rollouts, in any order.
///
/// Of a field in several parts the later counts, unless it says nothing (null, or an empty object or text).
pub fn complete(spans: Vec<Span>) -> Vec<Span> {
    let is_open = |span: &Span| is_part(span) || span.rewards.iter().any(|reward| reward.aggregate);
    if !spans.iter().any(is_open) {
        return spans;
    }
    let mut parts: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    let mut whole = Vec::with_capacity(spans.len());
    for span in spans {
        match is_part(&span) {
            true => parts.entry(span.span_id.clone()).or_default().push(span),
            false => whole.push(span),
        }
    }
    whole.extend(parts.into_values().flat_map(join_parts));
    drop_known_means(&mut whole);
    whole
}

fn is_part(span: &Span) -> bool {
    span.format == Format::LangSmith && span.part_json.is_some()
}

fn join_parts(mut parts: Vec<Span>) -> Vec<Span> {
    if parts.len() < 2 {
        parts.iter_mut().for_each(|part| part.part_json = None);
        return parts;
    }
    parts.sort_by_key(|part| part.origin);
    let mut joined = Attributes::default();
    for (key, value) in parts.iter().filter_map(|part| Attributes::from_json(part.part_json.as_deref()?).ok()).flat_map(owned) {
        let says_nothing = matches!(value.as_text().as_deref(), None | Some("" | "{}" | "[]"));
        if !says_nothing || !joined.contains(&key) {
            joined.put(key, value);
        }
    }
    let text = joined.to_json().unwrap_or_default();
    let origin = parts[0].origin;
    // What is wrong with a part was said when the part was read.
    let whole = parse(&text).and_then(|record| run::span(record, origin, &ReadOptions::default(), &mut Sink::default()));
    let Ok(mut whole) = whole else { return parts };
    // Where the user says that the task id is, only the readers know.
    for part in parts {
        let identity = part.identity;
        whole.identity.task_id = match (whole.identity.task_id, identity.task_id) {
            (Some(known), Some(other)) => Some(if other.0 < known.0 { other } else { known }),
            (known, other) => known.or(other),
        };
    }
    vec![whole]
}

fn owned(attributes: Attributes<'_>) -> Vec<(String, Value<'static>)> {
    attributes.iter().map(|(key, value)| (key.to_owned(), value.clone().into_owned())).collect()
}

/// A mean is of no use beside what it is the mean of.
fn drop_known_means(spans: &mut [Span]) {
    let known: BTreeSet<(String, String)> = spans
        .iter()
        .filter(|span| span.kind == Kind::Reward)
        .flat_map(|span| &span.rewards)
        .filter_map(|reward| Some((reward.target.as_ref()?.span_id.clone()?, reward.name.clone())))
        .collect();
    for span in spans.iter_mut().filter(|span| span.rewards.iter().any(|reward| reward.aggregate)) {
        let id = &span.span_id;
        span.rewards.retain(|reward| !reward.aggregate || !known.contains(&(id.clone(), reward.name.clone())));
    }
}

/// A JSON array of the JSON values in `items`.
fn array_json<'j>(items: impl IntoIterator<Item = &'j str>) -> String {
    let mut json = String::from("[");
    for item in items {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(item);
    }
    json.push(']');
    json
}

/// A JSON string.
fn string_json(text: &str) -> String {
    let mut json = String::new();
    push_json_string(&mut json, text);
    json
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;
    use crate::trace::span::{Status, TaskIdSource};

    fn one(record: &str) -> Span {
        let mut sink = sink_of(record, &[]);
        assert_eq!((codes(&sink), sink.spans.len()), (Vec::new(), 1), "{record}");
        sink.spans.remove(0)
    }

    #[test]
    fn members_may_be_strings_and_ids_may_come_from_the_order() {
        let span = one(
            r#"{"run_id":"r2","run_type":"tool","name":"f","dotted_order":"20261122T155023055415Zr0.20261122T155023055416Zr1.20261122T155023055417Zr2",
                "start_time":"2026-11-22T15:50:23.055417","end_time":"2026-11-22T15:50:24","session_id":"project","reference_example_id":"ex",
                "inputs":"{\"x\": 1}","outputs":"{\"output\": \"5\"}","extra":"{\"tool_call_id\": \"c1\", \"metadata\": {\"thread_id\": \"th\", \"task_id\": \"t\"}}"}"#,
        );
        assert_eq!(
            (span.trace_id.as_deref(), span.parent_span_id.as_deref(), span.span_id.as_str()),
            (Some("r0"), Some("r1"), "r2")
        );
        let tool = span.tool.as_deref().unwrap();
        assert_eq!(
            (tool.arguments.as_deref(), tool.result.as_deref(), tool.call_id.as_deref()),
            (Some(r#"{"x":1}"#), Some("5"), Some("c1"))
        );
        assert_eq!(span.identity.task_id, Some((TaskIdSource::Reference, "ex".to_owned())));
        assert_eq!(span.identity.session_id.as_deref(), Some("th"));
        assert!(span.part_json.is_none());
        assert!(span.attributes_json.as_deref().is_some_and(|rest| rest.contains(r#""session_id":"project""#)));
    }

    #[test]
    fn exceptions_are_named() {
        for (error, class, exceptions) in [
            (
                "ParentCommand(Command(graph='x'))Traceback (most recent call last):\n\n\n  File \"a.py\", line 1\n    raise E\n\n\nlanggraph.errors.ParentCommand: Command()",
                "ParentCommand",
                vec!["ParentCommand"],
            ),
            (
                "OperationalError('no')Traceback (most recent call last):\n\nsqlite3.OperationalError: no\nDuring task with name 'tools' and id '1'",
                "OperationalError",
                vec!["OperationalError"],
            ),
            ("GraphInterrupt((Interrupt(value='x'),))", "GraphInterrupt", vec!["GraphInterrupt"]),
        ] {
            let json = string_json(error);
            let span = one(&format!(
                r#"{{"id":"r","trace_id":"t","run_type":"tool","name":"f","start_time":1795363157,"end_time":1795363158,"inputs":{{}},"error":{json}}}"#
            ));
            assert_eq!((span.status, span.error_type.as_deref()), (Status::Error, Some(class)));
            assert_eq!(span.tool.as_deref().unwrap().exceptions, exceptions);
            assert_eq!(span.status_message.as_deref(), Some(error));
        }
    }

    #[test]
    fn calls_of_the_openai_client() {
        let span = one(
            r#"{"id":"r","trace_id":"t","run_type":"llm","name":"ChatOpenAI","start_time":1795363157,"end_time":1795363158,
                "inputs":{"messages":[{"role":"user","content":"q"}],"model":"m","temperature":0.5,"tools":[{"type":"function","function":{"name":"f"}}]},
                "outputs":{"id":"c1","model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"},
                                                             {"index":1,"message":{"role":"assistant","content":"b"},"finish_reason":"stop"}]},
                "extra":{"metadata":{"ls_provider":"openai","langgraph_checkpoint_ns":"planner:1|model:2"}},"prompt_tokens":9}"#,
        );
        let llm = span.llm.as_deref().unwrap();
        assert_eq!((llm.input.len(), llm.choices.len(), llm.tools.len(), llm.tools_known), (1, 2, 1, true));
        assert_eq!(
            (llm.model_requested.as_deref(), llm.model.as_deref(), llm.response_id.as_deref()),
            (Some("m"), Some("m-1"), Some("c1"))
        );
        assert_eq!((llm.temperature, llm.input_tokens, llm.provider.as_deref()), (Some(0.5), Some(9), Some("openai")));
        assert_eq!(span.identity.agent_hint.as_deref(), Some("planner"));
    }

    #[test]
    fn children_and_requests_hold_several_runs() {
        let child = r#"{"id":"c","trace_id":"t","run_type":"chain","name":"x","start_time":1795363157,"end_time":1795363158,"inputs":{}}"#;
        let nested = sink_of(
            &format!(
                r#"{{"id":"p","trace_id":"t","run_type":"chain","name":"y","start_time":1795363157,"end_time":1795363158,"inputs":{{}},"child_runs":[{child},{{"run_type":"llm"}}]}}"#
            ),
            &[],
        );
        assert_eq!((codes(&nested), nested.spans.len(), nested.spans[1].origin.position), (vec!["missing_field"], 2, 1));
        let request = sink_of(&format!(r#"{{"post":[{child}],"patch":[{{"id":"c","outputs":{{"a":1}}}}]}}"#), &[]);
        assert_eq!((codes(&request), request.spans.len()), (vec![], 2));
        assert!(request.spans[0].part_json.is_none() && request.spans[1].part_json.is_some());
    }

    #[test]
    fn parts_of_a_run_become_one() {
        let mut spans = Vec::new();
        for (record, line) in [
            r#"{"part":"post.r","value":{"id":"r","trace_id":"t","run_type":"tool","name":"f","start_time":"2026-11-22T15:50:23Z","error":null}}"#,
            r#"{"part":"post.r.inputs","value":{"x":1}}"#,
            r#"{"part":"post.r.outputs","value":{}}"#,
            r#"{"part":"patch.r","value":{"id":"r","trace_id":"t","name":null,"end_time":"2026-11-22T15:50:24Z"}}"#,
            r#"{"part":"patch.r.outputs","value":{"output":{"type":"tool","content":"5","tool_call_id":"c1","status":"success"}}}"#,
            r#"{"part":"patch.r.inputs","value":{}}"#,
            r#"{"part":"post.r.extra","value":{"metadata":{"case":"k"}}}"#,
        ]
        .into_iter()
        .zip(1..)
        {
            let mut sink = sink_of(record, &["case"]);
            assert_eq!(codes(&sink), [""; 0], "{record}");
            sink.spans[0].origin.line = line;
            spans.append(&mut sink.spans);
        }
        // The order in which they come makes no difference.
        spans.reverse();
        let spans = complete(spans);
        let [span] = &spans[..] else { panic!("{} spans", spans.len()) };
        assert_eq!((span.kind, span.name.as_str(), span.origin.line), (Kind::Tool, "f", 1));
        assert!(span.start_ns.is_some() && span.end_ns.is_some() && span.part_json.is_none());
        let tool = span.tool.as_deref().unwrap();
        assert_eq!((tool.arguments.as_deref(), tool.result.as_deref()), (Some(r#"{"x":1}"#), Some("5")));
        assert_eq!((tool.call_id.as_deref(), tool.result_is_error), (Some("c1"), Some(false)));
        assert_eq!(span.identity.task_id, Some((TaskIdSource::Configured, "k".to_owned())));
    }

    #[test]
    fn feedback() {
        let read = |members: &str| sink_of(&format!(r#"{{"id":"f","key":"k",{members}}}"#), &[]);
        for (members, value, label, source, is_final) in [
            (r#""run_id":"r","trace_id":"r","score":0.5,"value":null"#, Some(0.5), None, None, true),
            (
                r#""run_id":"c","trace_id":"r","score":true,"feedback_source":{"type":"app"}"#,
                Some(1.0),
                None,
                Some("human"),
                false,
            ),
            (
                r#""run_id":"c","score":null,"value":"good","feedback_source":{"type":"model"}"#,
                None,
                Some("good"),
                Some("grader"),
                false,
            ),
            (r#""trace_id":"r","score":null,"value":2"#, Some(2.0), None, None, true),
        ] {
            let sink = read(members);
            assert_eq!(codes(&sink), [""; 0], "{members}");
            let reward = &sink.spans[0].rewards[0];
            assert_eq!(
                (reward.value, reward.label.as_deref(), reward.source.as_deref(), reward.is_final),
                (value, label, source, is_final),
                "{members}"
            );
        }
        for (members, code) in [(r#""run_id":"r","score":"NaN""#, "bad_value"), (r#""run_id":null,"score":1"#, "missing_field")] {
            assert_eq!((codes(&read(members)), read(members).spans.len()), (vec![code], 0), "{members}");
        }
    }

    #[test]
    fn a_mean_counts_only_without_its_scores() {
        let run = one(
            r#"{"id":"r","trace_id":"r","run_type":"chain","name":"x","start_time":1795363157,"end_time":1795363158,"inputs":{},
                "feedback_stats":{"a":{"n":2,"avg":0.5},"b":{"n":1,"avg":1},"c":{"n":1,"avg":null}}}"#,
        );
        assert_eq!(run.rewards.len(), 2);
        let score = one(r#"{"id":"f","run_id":"r","trace_id":"r","key":"a","score":0.25}"#);
        let rewards: Vec<_> = complete(vec![run, score])
            .into_iter()
            .flat_map(|span| span.rewards)
            .map(|reward| (reward.name, reward.value))
            .collect();
        assert_eq!(rewards, [("b".to_owned(), Some(1.0)), ("a".to_owned(), Some(0.25))]);
    }
}
