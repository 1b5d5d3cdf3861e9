//! Rules of resolving on spans made by hand.

use proptest::prelude::*;

use super::*;
use crate::trace::message::{Message, Role, ToolCallRequest};
use crate::trace::span::{Choice, Convention, Format, Kind, Link, Llm, Reward, RewardTarget, Status, Tool, ToolOffer};

fn span(trace: &str, id: &str, parent: &str, kind: Kind, start: i64, end: i64) -> Span {
    Span {
        origin: Origin { line: u64::try_from(start).unwrap_or_default() + 1, ..Origin::default() },
        trace_id: Some(trace.to_owned()),
        span_id: id.to_owned(),
        parent_span_id: (!parent.is_empty()).then(|| parent.to_owned()),
        name: id.to_owned(),
        kind,
        start_ns: Some(start),
        end_ns: Some(end),
        ..Span::default()
    }
}

fn message(role: Role, text: &str) -> Message {
    Message { role, content: (!text.is_empty()).then(|| text.to_owned()), ..Message::default() }
}

fn asks(calls: &[(&str, &str, &str)]) -> Message {
    let calls = calls.iter().map(|(id, name, arguments)| ToolCallRequest {
        id: (!id.is_empty()).then(|| (*id).to_owned()),
        name: (*name).to_owned(),
        arguments: (*arguments).to_owned(),
    });
    Message { tool_calls: calls.collect(), ..message(Role::Assistant, "") }
}

fn told(id: &str, text: &str) -> Message {
    Message { tool_call_id: Some(id.to_owned()), ..message(Role::Tool, text) }
}

fn call(mut span: Span, input: &[Message], answers: &[Message]) -> Span {
    let choices = answers.iter().map(|message| Choice { message: message.clone(), ..Choice::default() });
    span.llm = Some(Box::new(Llm { input: input.to_vec(), choices: choices.collect(), ..Llm::default() }));
    span
}

fn tool(mut span: Span, name: &str, call_id: &str, result: Option<&str>, status: Status) -> Span {
    span.status = status;
    span.tool = Some(Box::new(Tool {
        name: Some(name.to_owned()),
        call_id: (!call_id.is_empty()).then(|| call_id.to_owned()),
        result: result.map(str::to_owned),
        ..Tool::default()
    }));
    span
}

fn resolved(spans: Vec<Span>) -> Vec<Row> {
    let mut joiner = Joiner::default();
    spans.iter().for_each(|span| joiner.see(span));
    resolve(spans, &joiner.finish(), &["a.jsonl".to_owned(), "b.jsonl".to_owned()]).0
}

/// `L` an LLM call, `T` a tool call that went well (`+`), failed (`x`), steered the run (`!`) or has no known fate (`?`), in
/// parentheses where only messages know of it.
fn sequence(rows: &[Row]) -> String {
    let words = rows.iter().filter(|row| row.dedup_of.is_none()).filter_map(|row| match row.kind {
        Kind::Llm => Some("L".to_owned()),
        Kind::Tool | Kind::Handoff => {
            let fate = match row.tool_status? {
                ToolStatus::Ok => "T+",
                ToolStatus::Error => "Tx",
                ToolStatus::Control => "T!",
                ToolStatus::Unknown => "T?",
            };
            Some(if row.asked_by_source == Some("message") { format!("({fate})") } else { fate.to_owned() })
        }
        _ => None,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn row<'a>(rows: &'a [Row], id: &str) -> &'a Row {
    rows.iter().find(|row| row.span_id == id).unwrap_or_else(|| panic!("no row `{id}` in {:?}", ids(rows)))
}

fn ids(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.span_id.as_str()).collect()
}

fn question() -> Message {
    message(Role::User, "what is 1 / 0?")
}

/// A failing tool that is asked for again, as an agent without tool spans and without a root records it: a trace for each call.
fn rootless() -> Vec<Span> {
    let first = asks(&[("c1", "divide", r#"{"by":0}"#)]);
    let second = asks(&[("c2", "divide", r#"{"by":1}"#)]);
    let history = [question(), first.clone(), told("c1", "error: division by zero")];
    let longer = [&history[..], &[second.clone(), told("c2", "1")]].concat();
    vec![
        call(span("t1", "a", "", Kind::Llm, 0, 1), &[question()], &[first]),
        call(span("t2", "b", "", Kind::Llm, 2, 3), &history, &[second]),
        call(span("t3", "c", "", Kind::Llm, 4, 5), &longer, &[message(Role::Assistant, "1")]),
    ]
}

#[test]
fn calls_without_a_root_are_stitched_by_tool_call_ids() {
    let rows = resolved(rootless());
    assert_eq!(sequence(&rows), "L (Tx) L (T+) L");
    assert!(rows.iter().all(|row| row.rollout_id == "t1" && row.rollout_id_source == "stitched"));
    assert_eq!(row(&rows, "a:c1").tool_status_evidence, Some(Evidence::ResultText));
    assert_eq!(row(&rows, "a:c1").asked_by.as_deref(), Some("a"));
}

#[test]
fn a_tool_call_id_of_two_askers_stitches_nothing() {
    let mut spans = rootless();
    spans.extend(rootless().into_iter().map(|mut span| {
        span.trace_id = span.trace_id.map(|trace| format!("other-{trace}"));
        span
    }));
    let rows = resolved(spans);
    assert!(rows.iter().all(|row| row.rollout_id_source == "trace"), "{rows:?}");
}

#[test]
fn conversations_stitch_only_where_one_goes_on_from_one() {
    let answer = message(Role::Assistant, "infinite?");
    let history = [question(), answer.clone(), message(Role::User, "no")];
    let first = call(span("t1", "a", "", Kind::Llm, 0, 1), &[question()], std::slice::from_ref(&answer));
    let second = call(span("t2", "b", "", Kind::Llm, 2, 3), &history, &[message(Role::Assistant, "undefined")]);
    let sibling = Span { trace_id: Some("t3".to_owned()), ..second.clone() };
    let sources = |spans: Vec<Span>| resolved(spans).iter().map(|row| row.rollout_id_source).collect::<Vec<_>>();
    assert_eq!(sources(vec![first.clone(), second.clone()]), ["stitched", "stitched"]);
    assert_eq!(sources(vec![first, second, sibling]), ["trace", "trace", "trace"]);
}

#[test]
fn links_join_traces_but_not_stated_rollouts() {
    let link = |mut span: Span, trace: &str| {
        span.links = vec![Link { trace_id: trace.to_owned(), ..Link::default() }];
        span
    };
    let plain = vec![
        span("t1", "a", "", Kind::Chain, 0, 9),
        link(span("t2", "b", "", Kind::Chain, 1, 2), "t1"),
        link(span("t3", "c", "", Kind::Chain, 3, 4), "t2"),
        link(span("t4", "d", "", Kind::Chain, 3, 4), "not recorded"),
        link(span("t5", "e", "", Kind::Chain, 3, 4), "not recorded"),
    ];
    let rollouts = |spans: Vec<Span>| resolved(spans).into_iter().map(|row| row.rollout_id).collect::<Vec<_>>();
    assert_eq!(rollouts(plain.clone()), ["t1", "t1", "t1", "t4", "t5"]);
    let mut stated = plain;
    stated[0].identity.rollout_id = Some("r1".to_owned());
    assert_eq!(rollouts(stated.clone()), ["r1", "r1", "r1", "t4", "t5"]);
    stated[2].identity.rollout_id = Some("r2".to_owned());
    assert_eq!(rollouts(stated), ["r1", "r2", "t2", "t4", "t5"]);
}

#[test]
fn attempts_at_a_stated_rollout_are_runs_of_their_own() {
    let at = |id: &str, attempt: Option<&str>, start: i64| {
        let mut span = span(id, id, "", Kind::Llm, start, start + 1);
        span.identity.rollout_id = Some("r".to_owned());
        span.identity.attempt_id = attempt.map(str::to_owned);
        span
    };
    let rollouts = |spans: Vec<Span>| resolved(spans).into_iter().map(|row| row.rollout_id).collect::<Vec<_>>();
    assert_eq!(rollouts(vec![at("a", Some("0"), 0), at("record", None, 9)]), ["r", "r"]);
    assert_eq!(rollouts(vec![at("a", Some("0"), 0), at("b", Some("1"), 5), at("record", None, 9)]), ["r/0", "r/1", "r/1"]);
}

#[test]
fn feedback_without_a_trace_finds_its_run() {
    let mut run = span("t1", "run", "", Kind::Llm, 0, 1);
    run.format = Format::LangSmith;
    let mut feedback = span("t1", "feedback", "", Kind::Reward, 5, 5);
    feedback.trace_id = None;
    let target = RewardTarget { span_id: Some("run".to_owned()), ..RewardTarget::default() };
    feedback.rewards = vec![Reward { name: "score".to_owned(), value: Some(1.0), target: Some(target), ..Reward::default() }];
    let rows = resolved(vec![feedback.clone(), run]);
    assert_eq!(rows.iter().map(|row| row.rollout_id.as_str()).collect::<Vec<_>>(), ["t1", "t1"]);
    assert_eq!(row(&rows, "feedback").reward_target.as_deref(), Some("run"));
    assert_eq!(resolved(vec![feedback])[0].rollout_id, "a.jsonl:6");
}

/// Two agents, a handoff, parallel tools of which one fails.
fn team() -> Vec<Span> {
    let agent = |mut span: Span, name: &str| {
        span.identity.agent = Some(name.to_owned());
        span
    };
    let handoff = asks(&[("h", "transfer_to_math", "{}")]);
    let both = asks(&[("c1", "divide", r#"{"by":0}"#), ("c2", "divide", r#"{"by":2}"#)]);
    let history = [question(), handoff.clone(), told("h", "ok")];
    let longer = [&history[..], &[both.clone(), told("c1", "division by zero"), told("c2", "5")]].concat();
    vec![
        span("t", "root", "", Kind::Chain, 0, 90),
        agent(span("t", "triage", "root", Kind::Agent, 1, 20), "triage"),
        call(span("t", "l1", "triage", Kind::Llm, 2, 5), &[question()], &[handoff]),
        tool(span("t", "h1", "triage", Kind::Tool, 6, 7), "transfer_to_math", "", Some("ok"), Status::Ok),
        agent(span("t", "math", "root", Kind::Agent, 20, 80), "math"),
        call(span("t", "l2", "math", Kind::Llm, 21, 30), &history, &[both]),
        tool(span("t", "second", "math", Kind::Tool, 31, 32), "divide", "c2", Some("5"), Status::Ok),
        tool(span("t", "first", "math", Kind::Tool, 31, 33), "divide", "", None, Status::Error),
        call(span("t", "l3", "math", Kind::Llm, 40, 50), &longer, &[message(Role::Assistant, "5")]),
    ]
}

#[test]
fn parallel_tools_stand_in_the_order_of_the_request() {
    let rows = resolved(team());
    assert_eq!(sequence(&rows), "L T! L Tx T+ L");
    let first = row(&rows, "first");
    assert_eq!((first.asked_by.as_deref(), first.asked_by_source), (Some("l2"), Some("order")));
    assert_eq!(first.tool_call_id.as_deref(), Some("c1"));
    assert_eq!(first.tool_result.as_deref(), Some("division by zero"));
    assert_eq!(row(&rows, "second").asked_by_source, Some("id"));
    assert_eq!(row(&rows, "l1").agent_path.as_deref(), Some("triage"));
    assert_eq!(row(&rows, "l3").agent.as_deref(), Some("math"));
}

#[test]
fn order_of_the_input_does_not_matter() {
    let mut spans = team();
    spans.extend(rootless());
    let expected = format!("{:?}", resolved(spans.clone()));
    for turn in 1..spans.len() {
        spans.rotate_left(turn);
        spans.swap(0, turn);
        assert_eq!(format!("{:?}", resolved(spans.clone())), expected);
    }
}

#[test]
fn joiners_merge_in_any_order() {
    let spans = [team(), rootless()].concat();
    let keys = |assign: fn(usize) -> usize| {
        let mut joiners = [Joiner::default(), Joiner::default(), Joiner::default()];
        spans.iter().enumerate().for_each(|(n, span)| joiners[assign(n)].see(span));
        let mut all = Joiner::default();
        joiners.into_iter().for_each(|joiner| all.merge(joiner));
        let components = all.finish();
        spans.iter().map(|span| components.key(span)).collect::<Vec<_>>()
    };
    assert_eq!(keys(|_| 0), keys(|n| n % 3));
    assert_eq!(keys(|_| 0), keys(|n| 2 - n % 3));
}

#[test]
fn the_same_file_twice_leaves_duplicates() {
    let mut again = team();
    again.iter_mut().for_each(|span| span.origin.file = 1);
    let rows = resolved([team(), again].concat());
    assert_eq!(sequence(&rows), "L T! L Tx T+ L");
    assert_eq!(rows.len(), 2 * team().len());
    assert_eq!(row(&rows, "l1~2").dedup_of.as_deref(), Some("l1"));
}

#[test]
fn the_two_halves_of_a_record_are_one_row() {
    let whole = call(span("t", "l", "", Kind::Llm, 0, 9), &[question()], &[message(Role::Assistant, "1")]);
    let mut begin = whole.clone();
    begin.end_ns = None;
    begin.llm.as_mut().unwrap().choices.clear();
    let mut end = whole;
    end.llm.as_mut().unwrap().input.clear();
    end.origin.line = 7;
    end.status = Status::Ok;
    for spans in [vec![begin.clone(), end.clone()], vec![end, begin]] {
        let rows = resolved(spans);
        assert_eq!(ids(&rows), ["l"]);
        assert!(rows[0].input_messages.is_some() && rows[0].output_messages.is_some());
        assert_eq!((rows[0].end_ns, rows[0].status), (Some(9), Status::Ok));
    }
}

#[test]
fn log_events_fill_their_call_in_the_order_of_their_times() {
    let mut late = call(span("t", "1.0", "l", Kind::Message, 1, 1), &[question()], &[]);
    late.origin.line = 9;
    let early = call(span("t", "1.1", "l", Kind::Message, 0, 0), &[message(Role::System, "be brief")], &[]);
    let choice = call(span("t", "1.2", "l", Kind::Message, 5, 5), &[], &[message(Role::Assistant, "1")]);
    let rows = resolved(vec![late, choice, early, span("t", "l", "", Kind::Llm, 0, 9)]);
    let messages = row(&rows, "l").input_messages.as_deref().unwrap();
    assert_eq!(messages, r#"[{"role":"system","content":"be brief"},{"role":"user","content":"what is 1 / 0?"}]"#);
    assert_eq!(row(&rows, "l").output_messages.as_deref(), Some(r#"[{"role":"assistant","content":"1"}]"#));
    assert!(row(&rows, "1.1").input_messages.is_none());
}

#[test]
fn wrapped_calls_count_once() {
    let mut outer = call(span("t", "outer", "", Kind::Llm, 0, 9), &[question()], &[]);
    outer.llm.as_mut().unwrap().temperature = Some(0.5);
    let inner = call(span("t", "inner", "http", Kind::Llm, 2, 8), &[question()], &[message(Role::Assistant, "1")]);
    let rows = resolved(vec![outer, span("t", "http", "outer", Kind::Other, 1, 8), inner]);
    assert_eq!(row(&rows, "outer").dedup_of.as_deref(), Some("inner"));
    assert_eq!(row(&rows, "inner").temperature, Some(0.5));
}

#[test]
fn a_call_that_a_tool_makes_is_not_wrapped_by_the_call_around_it() {
    let rows = resolved(vec![
        call(span("t", "outer", "", Kind::Llm, 0, 9), &[question()], &[]),
        tool(span("t", "tool", "outer", Kind::Tool, 1, 8), "ask", "", Some("1"), Status::Ok),
        call(span("t", "inner", "tool", Kind::Llm, 2, 8), &[question()], &[]),
    ]);
    assert!(rows.iter().all(|row| row.dedup_of.is_none()));
}

#[test]
fn a_tool_in_a_tool_is_one_call_with_the_worse_status() {
    let rows = resolved(vec![
        tool(span("t", "outer", "", Kind::Tool, 0, 9), "agent.divide", "", Some("division by zero"), Status::Ok),
        tool(span("t", "inner", "outer", Kind::Tool, 1, 8), "divide", "c1", None, Status::Error),
    ]);
    assert_eq!(sequence(&rows), "Tx");
    let kept = row(&rows, "outer");
    assert_eq!((kept.tool_call_id.as_deref(), kept.tool_result.as_deref()), (Some("c1"), Some("division by zero")));
}

#[test]
fn one_response_in_two_spans_is_one_call_unless_the_answers_differ() {
    let with_id = |id: &str, answer: &str, start: i64| {
        let mut span = call(span("t", id, "", Kind::Llm, start, start + 1), &[question()], &[message(Role::Assistant, answer)]);
        span.llm.as_mut().unwrap().response_id = Some("r".to_owned());
        span
    };
    assert_eq!(sequence(&resolved(vec![with_id("a", "1", 0), with_id("b", "1", 2)])), "L");
    assert_eq!(sequence(&resolved(vec![with_id("a", "1", 0), with_id("b", "2", 2)])), "L L");
    let mut cached = with_id("b", "1", 2);
    cached.llm.as_mut().unwrap().input.push(message(Role::User, "and 2 / 2?"));
    assert_eq!(sequence(&resolved(vec![with_id("a", "1", 0), cached])), "L L");
}

#[test]
fn repeated_tool_call_ids_belong_to_the_latest_request() {
    let ask = || asks(&[("call_1", "divide", r#"{"by":1}"#)]);
    let history = [question(), ask(), told("call_1", "1")];
    let longer = [&history[..], &[ask(), told("call_1", "2")]].concat();
    let rows = resolved(vec![
        span("t", "root", "", Kind::Chain, 0, 99),
        call(span("t", "l1", "root", Kind::Llm, 1, 2), &[question()], &[ask()]),
        tool(span("t", "t1", "root", Kind::Tool, 3, 4), "divide", "call_1", None, Status::Unset),
        call(span("t", "l2", "root", Kind::Llm, 5, 6), &history, &[ask()]),
        tool(span("t", "t2", "root", Kind::Tool, 7, 8), "divide", "call_1", None, Status::Unset),
        call(span("t", "l3", "root", Kind::Llm, 9, 10), &longer, &[message(Role::Assistant, "2")]),
    ]);
    assert_eq!(row(&rows, "t1").asked_by.as_deref(), Some("l1"));
    assert_eq!(row(&rows, "t2").asked_by.as_deref(), Some("l2"));
    assert_eq!(row(&rows, "t1").tool_result.as_deref(), Some("1"));
    assert_eq!(row(&rows, "t2").tool_result.as_deref(), Some("2"));
}

#[test]
fn results_are_matched_by_place_where_ids_were_rewritten() {
    let history = [question(), asks(&[("call_1", "divide", "{}")]), told("call_1", "1")];
    let rows = resolved(vec![
        span("t", "root", "", Kind::Chain, 0, 99),
        call(span("t", "l1", "root", Kind::Llm, 1, 2), &[question()], &[asks(&[("fc_1", "divide", "{}")])]),
        call(span("t", "l2", "root", Kind::Llm, 5, 6), &history, &[message(Role::Assistant, "1")]),
    ]);
    assert_eq!(sequence(&rows), "L (T+) L");
}

#[test]
fn choices_are_siblings_and_their_requests_their_own() {
    let choices = [asks(&[("c1", "divide", "{not json")]), message(Role::Assistant, " ")];
    let mut span = call(span("t", "l", "", Kind::Llm, 0, 1), &[question()], &choices);
    let llm = span.llm.as_mut().unwrap();
    llm.tools = vec![ToolOffer { name: "add".to_owned(), ..ToolOffer::default() }];
    llm.tools_known = true;
    llm.output_tokens = Some(12);
    let rows = resolved(vec![span]);
    assert_eq!(ids(&rows), ["l", "l#1", "l:c1"]);
    assert_eq!((rows[0].response_empty, rows[1].response_empty), (Some(false), Some(true)));
    assert_eq!((rows[0].output_tokens, rows[1].output_tokens), (Some(12), None));
    assert_eq!((rows[2].arguments_valid, rows[2].tool_offered), (Some(false), Some(false)));
}

#[test]
fn reward_dimensions_are_rows_and_point_at_what_they_are_about() {
    let mut llm = call(span("t", "l", "", Kind::Llm, 0, 1), &[question()], &[message(Role::Assistant, "1")]);
    llm.llm.as_mut().unwrap().response_id = Some("resp".to_owned());
    let mut reward = span("t", "r", "", Kind::Reward, 5, 5);
    let target = RewardTarget { response_id: Some("resp".to_owned()), ..RewardTarget::default() };
    reward.rewards = vec![
        Reward { name: "primary".to_owned(), value: Some(1.0), primary: true, ..Reward::default() },
        Reward { name: "style".to_owned(), value: Some(f64::NAN), target: Some(target), ..Reward::default() },
    ];
    let rows = resolved(vec![llm, reward]);
    assert_eq!(ids(&rows), ["l", "r", "r#1"]);
    assert_eq!((rows[1].reward_value, rows[1].reward_target.as_deref()), (Some(1.0), None));
    assert_eq!((rows[2].reward_value, rows[2].reward_target.as_deref()), (None, Some("l")));
}

#[test]
fn a_ring_of_parents_has_a_first_span() {
    let rows = resolved(vec![
        span("t", "a", "c", Kind::Chain, 0, 9),
        span("t", "b", "a", Kind::Chain, 1, 9),
        span("t", "c", "b", Kind::Chain, 2, 9),
        span("t", "self", "self", Kind::Chain, 3, 9),
        span("t", "orphan", "not recorded", Kind::Chain, 4, 9),
    ]);
    assert_eq!(rows.iter().map(|row| row.depth).collect::<Vec<_>>(), [0, 1, 2, 0, 0]);
}

#[test]
fn an_end_before_the_start_is_set_aside() {
    let spans = vec![span("t", "a", "", Kind::Llm, 5, 2)];
    let mut joiner = Joiner::default();
    joiner.see(&spans[0]);
    let (rows, unresolved) = resolve(spans, &joiner.finish(), &["a.jsonl".to_owned()]);
    assert_eq!((rows[0].start_ns, rows[0].end_ns), (Some(5), None));
    assert_eq!(unresolved[0].1.to_string(), "span `a` ends 3 ns before it starts: its end is left out");
}

#[test]
fn deep_chains_and_flat_crowds_are_resolved() {
    let deep = (0..50_000i64).map(|n| {
        let parent = if n == 0 { String::new() } else { (n - 1).to_string() };
        let kind = if n % 2 == 0 { Kind::Llm } else { Kind::Agent };
        let mut span = span("deep", &n.to_string(), &parent, kind, n, 100_000);
        span.identity.agent = Some(n.to_string());
        span
    });
    let flat = (0..10_000i64).map(|n| {
        let parent = if n == 0 { "" } else { "0" };
        let request = [asks(&[("call_1", "divide", "{}")])];
        match n {
            0 => span("flat", "0", "", Kind::Chain, 0, 100_000),
            n if n % 2 == 1 => call(span("flat", &n.to_string(), parent, Kind::Llm, n, n + 1), &[question()], &request),
            n => tool(span("flat", &n.to_string(), parent, Kind::Tool, n, n + 1), "divide", "call_1", None, Status::Ok),
        }
    });
    let rows = resolved(deep.chain(flat).collect());
    // And what the last of the crowd asked for and nobody did.
    assert_eq!(rows.len(), 60_001);
    assert_eq!(rows[49_999].depth, 49_999);
    assert_eq!(row(&rows[50_000..], "9998").asked_by.as_deref(), Some("9997"));
}

/// Spans of a few ids, traces, times and kinds, so that cycles, orphans, repeats and halves are common.
fn any_span() -> impl Strategy<Value = Span> {
    let kinds = [Kind::Llm, Kind::Tool, Kind::Agent, Kind::Chain, Kind::Handoff, Kind::ToolRequest, Kind::Message, Kind::Reward];
    let id = 0..6u8;
    let time = proptest::option::of(0..5i64);
    let ids = (0..3u8, id.clone(), proptest::option::of(id), proptest::option::of(0..2u8));
    (ids, proptest::sample::select(kinds.to_vec()), time.clone(), time, 0..40u64).prop_map(|(ids, kind, start, end, line)| {
        let (trace, id, parent, rollout) = ids;
        let mut span =
            span(&trace.to_string(), &id.to_string(), &parent.map(|id| id.to_string()).unwrap_or_default(), kind, 0, 0);
        (span.start_ns, span.end_ns) = (start, end);
        span.identity.rollout_id = rollout.map(|rollout| format!("r{rollout}"));
        match kind {
            Kind::Llm | Kind::Message => {
                let history = [question(), asks(&[("1", "f", "{}")]), told("1", "ok")];
                call(span, &history, &[asks(&[("1", "f", "{}"), ("", "transfer_to_b", "{")])])
            }
            Kind::Tool | Kind::ToolRequest => tool(span, "f", if line % 2 == 0 { "1" } else { "" }, None, Status::Error),
            Kind::Reward => Span { rewards: vec![Reward::default(), Reward::default()], ..span },
            _ => span,
        }
    })
}

proptest! {
    #[test]
    fn any_spans_give_rows_that_hold_together(mut spans in proptest::collection::vec(any_span(), 0..30), turn in 0..30usize) {
        (0..).zip(&mut spans).for_each(|(line, span)| span.origin.line = line);
        let rows = resolved(spans.clone());
        for rows in rows.chunk_by(|a, b| a.rollout_id == b.rollout_id) {
            let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
            prop_assert_eq!(seqs, (0..).take(rows.len()).collect::<Vec<i64>>());
            let kept: std::collections::BTreeMap<&str, bool> =
                rows.iter().map(|row| (row.span_id.as_str(), row.dedup_of.is_none())).collect();
            prop_assert_eq!(kept.len(), rows.len(), "an id twice in {:?}", ids(rows));
            for row in rows {
                prop_assert!(row.dedup_of.as_deref().is_none_or(|id| kept.get(id) == Some(&true)), "{row:?}");
                prop_assert!(row.asked_by.as_deref().is_none_or(|id| kept.contains_key(id)), "{row:?}");
            }
        }
        let mut turned = spans;
        let middle = turn.min(turned.len());
        turned.rotate_left(middle);
        prop_assert_eq!(format!("{:?}", resolved(turned)), format!("{rows:?}"));
    }
}

/// A call as our server records it: without a parent, in a trace of its own.
fn served(id: &str, start: i64, end: i64, input: &[Message], answers: &[Message]) -> Span {
    let mut span = call(span("server", id, "", Kind::Llm, start, end), input, answers);
    span.convention = Some(Convention::Fulgurite);
    span.identity.rollout_id = Some("r".to_owned());
    for choice in span.llm.iter_mut().flat_map(|llm| &mut llm.choices) {
        choice.token_ids = Some(vec![7, 8]);
    }
    span
}

/// What a client's instrumentation makes of the same rollout.
fn client(mut span: Span) -> Span {
    span.identity.rollout_id = Some("r".to_owned());
    span
}

#[test]
fn a_served_call_and_its_clients_span_are_one_call_of_the_clients_agent() {
    const MS: i64 = 1_000_000;
    let hello = message(Role::Assistant, "hello");
    let asking = asks(&[("call_1", "divide", "{}")]);
    let mut writer = client(span("agent", "writer", "", Kind::Agent, 0, 900 * MS));
    writer.identity.agent = Some("writer".to_owned());
    let spans = vec![
        writer,
        // Found by time and text; the client's wrapper has one more around it.
        client(call(
            span("agent", "outer", "writer", Kind::Llm, 100 * MS, 200 * MS),
            &[question()],
            std::slice::from_ref(&hello),
        )),
        client(call(span("agent", "inner", "outer", Kind::Llm, 110 * MS, 190 * MS), &[question()], std::slice::from_ref(&hello))),
        served("s1", 120 * MS, 180 * MS, &[question()], std::slice::from_ref(&hello)),
        // Found by the id of the tool call, whatever the clocks say.
        client(call(
            span("agent", "asks", "writer", Kind::Llm, 300 * MS, 310 * MS),
            &[question()],
            std::slice::from_ref(&asking),
        )),
        served("s2", 500 * MS, 510 * MS, &[question()], &[asking]),
        // Asked for twice in one span of the client, which gave up the first time.
        client(call(
            span("agent", "retries", "writer", Kind::Llm, 600 * MS, 800 * MS),
            &[question()],
            std::slice::from_ref(&hello),
        )),
        Span { status: Status::Error, ..served("s3", 610 * MS, 650 * MS, &[question()], &[]) },
        served("s4", 700 * MS, 790 * MS, &[question()], &[hello]),
        // Nobody else recorded this one.
        served("s5", 850 * MS, 860 * MS, &[question()], &[message(Role::Assistant, "other")]),
    ];
    let rows = resolved(spans);
    let calls: Vec<_> = rows.iter().filter(|row| row.kind == Kind::Llm && row.dedup_of.is_none()).collect();
    let found: Vec<_> =
        calls.iter().map(|row| (row.span_id.as_str(), row.parent_span_id.as_deref(), row.agent.as_deref())).collect();
    let of_writer = Some("writer");
    assert_eq!(
        found,
        [
            ("s1", Some("inner"), of_writer),
            ("s2", Some("asks"), of_writer),
            ("s3", Some("retries"), of_writer),
            ("s4", Some("retries"), of_writer),
            ("s5", None, None),
        ]
    );
    assert_eq!(row(&rows, "s3").abandoned, Some(true));
    assert_eq!(row(&rows, "outer").dedup_of.as_deref(), Some("s1"));
    assert_eq!(row(&rows, "retries").dedup_of.as_deref(), Some("s4"));
    assert!(calls.iter().all(|row| row.span_id == "s3" || row.response_token_ids.as_deref() == Some(&[7, 8])));
}

#[test]
fn what_was_meant_for_a_tool_call_is_one_that_nobody_could_run() {
    let text = "<tool_call>{\"name\": ";
    let mut asked = call(span("t", "a", "", Kind::Llm, 0, 1), &[question()], &[message(Role::Assistant, text)]);
    asked.llm.as_mut().unwrap().choices[0].malformed = vec![text.to_owned()];
    let rows = resolved(vec![asked]);
    let meant = row(&rows, "a:0");
    assert_eq!((meant.kind, meant.asked_by.as_deref(), meant.tool_name.as_deref()), (Kind::Tool, Some("a"), None));
    assert_eq!((meant.arguments_valid, meant.tool_offered, meant.tool_arguments.as_deref()), (Some(false), None, Some(text)));
}
