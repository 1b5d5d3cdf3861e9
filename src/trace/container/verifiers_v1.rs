//! Verifiers 0.4 and prime-rl: `traces.jsonl`, one episode a line, with a trace for each agent, whose messages are a graph.
//!
//! ```text
//! {"id", "env", "task", "group": {"id"}, "ok", "errors", "traces": [
//!   {"id", "task": {"type", "data", "key", "hash"}, "agent": {"name", "trainable"}, "tools": [tool],
//!    "nodes": [{"parent", "message", "sampled", "timestamp", "token_ids", "mask", "logprobs", "tools"}],
//!    "calls": [{"node", "model", "sampling", "finish_reason", "usage", "time": {"start", "end"}, "error"}],
//!    "rewards": {name: {"score", "weight"}}, "metrics": {name: number}, "is_completed", "ok", "is_timeout", "errors", "timing"}]}
//! ```
//!
//! Every node that a model sampled is one call; its prompt is the path to it, its ids are those of the path. A node's ids begin with what
//! the template puts before the answer: that belongs to the prompt. A trace is a rollout of its own, and so is an agent of an episode. Tools
//! are known by the messages only.

use super::metadata::identify;
use super::record::{parse, reward_value, take_id};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Message, Role, read_message};
use crate::trace::openai::{push_tools, read_parameters_json};
use crate::trace::reject::Reject;
use crate::trace::span::{
    Choice, Format, Identity, Kind, Llm, Origin, Reward, RolloutRecord, Span, Status, TaskIdSource, Tool, ToolOffer,
};
use crate::trace::time;

use super::dialogue::MAX_PROMPTS_BYTES;

/// Whether a record is an episode, or a trace alone.
pub fn recognises(keys: &Keys<'_>) -> bool {
    let is_trace = |keys: &Keys<'_>| keys.begins("nodes", b'[') && keys.has_any(&["calls", "task"]);
    is_trace(keys) || keys.begins("traces", b'[') && keys.has_any(&["env", "task"])
}

/// Reads one episode.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let Some(traces) = record.take("traces") else { return trace(record, &Identity::default(), origin, options, sink) };
    let episode = take_id(&mut record, "id");
    let group = Attributes::of_object(record.get("group"));
    let identity = Identity {
        session_id: episode,
        group_id: group
            .get("id")
            .or(record.get("group"))
            .filter(|id| !matches!(id, Value::Json(_)))
            .and_then(Value::as_text)
            .map(Into::into),
        ..Identity::default()
    };
    drop(group);
    for (part, position) in traces.elements().into_iter().zip(0..) {
        let origin = Origin { position, ..origin };
        sink.part(part, origin, |sink| trace(parse(part)?, &identity, origin, options, sink));
    }
    Ok(())
}

/// One message of the graph.
struct Node {
    parent: Option<usize>,
    message: Message,
    sampled: bool,
    /// Seconds since 1970.
    time_ns: Option<i64>,
    token_ids: Vec<i32>,
    mask: Vec<bool>,
    logprobs: Vec<f32>,
    /// Of a root: the tools that its branch was offered.
    tools: Vec<ToolOffer>,
}

fn trace(
    mut record: Attributes<'_>,
    episode: &Identity,
    origin: Origin,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<(), Reject> {
    let id = take_id(&mut record, "id").ok_or(Reject::MissingField { field: "id" })?;
    let identity = identity(&record, episode, options);
    let nodes_value = record.take("nodes").ok_or(Reject::MissingField { field: "nodes" })?;
    let nodes: Vec<Node> =
        nodes_value.elements().into_iter().enumerate().map(|(index, json)| node(json, index)).collect::<Result<_, _>>()?;
    let calls_value = record.take("calls");
    let calls: Vec<Attributes<'_>> =
        calls_value.iter().flat_map(Value::elements).filter_map(|call| Attributes::from_json(call).ok()).collect();
    let tools_value = record.take("tools");
    let mut tools: Vec<ToolOffer> = Vec::new();
    if let Some(definitions) = tools_value.as_ref().and_then(Value::as_text) {
        push_tools(&definitions, &mut tools);
    }
    let run = Span {
        origin,
        format: Format::Verifiers,
        trace_id: Some(id),
        kind_evidence: Some("sampled".to_owned()),
        identity,
        ..Span::default()
    };
    let mut spans = Vec::new();
    let mut prompts_bytes = 0;
    for (index, sampled) in nodes.iter().enumerate().filter(|(_, node)| node.sampled) {
        let path = path_to(&nodes, index);
        prompts_bytes += path.iter().map(|node| 64 + node.message.content.as_ref().map_or(0, String::len)).sum::<usize>();
        if prompts_bytes > MAX_PROMPTS_BYTES {
            let length = format!("{} messages", nodes.len());
            return Err(Reject::bad_value("nodes", &length, "a trace whose prompts have at most 256 MiB together"));
        }
        let call = calls.iter().find(|call| call.get("node").and_then(Value::as_int) == i64::try_from(index).ok());
        let of_branch = path.first().map(|root| &root.tools).filter(|tools| !tools.is_empty());
        let llm =
            Llm { tools: of_branch.unwrap_or(&tools).clone(), tools_known: tools_value.is_some(), ..of_path(&path, sampled) };
        spans.push(call_span(index, sampled, llm, call, &run));
    }
    // Calls that ended without an answer.
    let failed = calls.iter().enumerate().filter(|(_, call)| call.get("node").is_none());
    spans.extend(failed.map(|(index, call)| {
        let mut span = call_span(nodes.len() + index, &EMPTY, Llm::default(), Some(call), &run);
        span.span_id = format!("call.{index}");
        span
    }));
    spans.extend(unheard_results(&nodes, &run));
    spans.extend(rewards(&mut record, &run));
    spans.push(about(record, run));
    sink.spans.append(&mut spans);
    Ok(())
}

const EMPTY: Node = Node {
    parent: None,
    message: Message {
        role: Role::Assistant,
        name: None,
        content: None,
        reasoning: None,
        refusal: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
        is_error: None,
        parts_json: None,
    },
    sampled: true,
    time_ns: None,
    token_ids: Vec::new(),
    mask: Vec::new(),
    logprobs: Vec::new(),
    tools: Vec::new(),
};

fn identity(record: &Attributes<'_>, episode: &Identity, options: &ReadOptions) -> Identity {
    let task = Attributes::of_object(record.get("task"));
    let data = Attributes::of_object(task.get("data"));
    let agent = Attributes::of_object(record.get("agent"));
    // `agent` is what an agent is called that nobody named.
    let name = agent.text("name").filter(|name| *name != "agent").map(str::to_owned);
    let mut identity = Identity { agent_hint: name, ..episode.clone() };
    let known = ["key", "hash"].into_iter().find_map(|key| task.text(key)).map(str::to_owned);
    let id = data.get("id").and_then(Value::as_text).map(|id| id.into_owned());
    identity.task_id = id.or(known).map(|id| (TaskIdSource::Reference, id));
    identify(&mut identity, &data, options);
    identify(&mut identity, &Attributes::of_object(record.get("info")), options);
    identity
}

fn node(json: &str, index: usize) -> Result<Node, Reject> {
    let shape = |source| Reject::Shape { container: "nodes", source };
    let mut record = Attributes::from_json(json).map_err(shape)?;
    let message = record.take("message").and_then(Value::into_text).ok_or(Reject::MissingField { field: "nodes.message" })?;
    let message = read_message(&message, Role::User).map_err(shape)?.unwrap_or_default();
    let parent = record.take_int("parent").map(|parent| usize::try_from(parent).ok().filter(|parent| *parent < index));
    if parent == Some(None) {
        return Err(Reject::bad_value("nodes.parent", "", "the place of an earlier node"));
    }
    let list = |key: &str| record.get(key).and_then(Value::as_text);
    let token_ids: Vec<i32> = list("token_ids").map_or(Ok(Vec::new()), |ids| serde_json::from_str(&ids)).map_err(shape)?;
    let mask: Vec<bool> = list("mask").map_or(Ok(Vec::new()), |mask| serde_json::from_str(&mask)).map_err(shape)?;
    let logprobs: Vec<f32> =
        list("logprobs").map_or(Ok(Vec::new()), |logprobs| serde_json::from_str(&logprobs)).map_err(shape)?;
    if mask.len() != token_ids.len() {
        let lengths = format!("{} of {}", mask.len(), token_ids.len());
        return Err(Reject::bad_value("nodes.mask", &lengths, "one for each of `token_ids`"));
    }
    let time_ns = record.get("timestamp").and_then(Value::as_text).and_then(|text| time::parse(&text)).map(|time| time.ns);
    let sampled = record.take_bool("sampled") == Some(true);
    let mut tools = Vec::new();
    if let Some(definitions) = record.get("tools").and_then(Value::as_text) {
        push_tools(&definitions, &mut tools);
    }
    Ok(Node { parent: parent.flatten(), message, sampled, time_ns, token_ids, mask, logprobs, tools })
}

/// The nodes before one, from the root. Parents stand before their children, so that this ends.
fn path_to(nodes: &[Node], index: usize) -> Vec<&Node> {
    let mut path = Vec::new();
    let mut at = nodes[index].parent;
    while let Some(parent) = at {
        path.push(&nodes[parent]);
        at = nodes[parent].parent;
    }
    path.reverse();
    path
}

/// Prompt, answer and their tokens. Ids are there only where every node of the path has them.
fn of_path(path: &[&Node], sampled: &Node) -> Llm {
    let input = path.iter().map(|node| node.message.clone()).collect();
    let mut choice = Choice { message: sampled.message.clone(), ..Choice::default() };
    let has_ids = !sampled.token_ids.is_empty() && path.iter().all(|node| !node.token_ids.is_empty());
    let mut prompt_token_ids = None;
    if let Some(begin) = sampled.mask.iter().position(|sampled| *sampled).filter(|_| has_ids) {
        let before = path.iter().flat_map(|node| &node.token_ids).chain(&sampled.token_ids[..begin]);
        prompt_token_ids = Some(before.copied().collect());
        let ids = sampled.token_ids[begin..].iter().zip(&sampled.mask[begin..]).filter(|(_, sampled)| **sampled);
        let ids: Vec<i32> = ids.map(|(id, _)| *id).collect();
        choice.logprobs = (sampled.logprobs.len() == ids.len()).then(|| sampled.logprobs.clone());
        choice.token_ids = Some(ids);
    }
    Llm { input, choices: vec![choice], prompt_token_ids, ..Llm::default() }
}

fn call_span(index: usize, sampled: &Node, mut llm: Llm, call: Option<&Attributes<'_>>, run: &Span) -> Span {
    let mut span = Span { kind: Kind::Llm, span_id: format!("node.{index}"), name: "call".to_owned(), ..run.clone() };
    let mut call = call.cloned().unwrap_or_default();
    let clock_object = call.take_object("time");
    let clock = Attributes::of_object(clock_object.as_ref());
    let at = |key| clock.get(key).and_then(Value::as_text).and_then(|text| time::parse(&text));
    let (start, end) = (at("start"), at("end"));
    (span.start_ns, span.end_ns) = (start.map(|time| time.ns).or(sampled.time_ns), end.map(|time| time.ns));
    span.time_precision_ns = start.or(end).map(|time| time.precision_ns);
    llm.model_requested = call.take_text("model");
    if let Some(finish_reason) = call.take_text("finish_reason") {
        llm.choices.iter_mut().for_each(|choice| choice.finish_reason = Some(finish_reason.clone()));
    }
    if let Some(sampling) = call.take_object("sampling").and_then(Value::into_text) {
        read_parameters_json(&sampling, &mut llm);
    }
    let usage_object = call.take_object("usage");
    let usage = Attributes::of_object(usage_object.as_ref());
    let count = |key| usage.get(key).and_then(Value::as_int);
    // What was read from the cache is not among `prompt_tokens` here.
    llm.cached_tokens = count("cached_input_tokens");
    llm.input_tokens = count("prompt_tokens").map(|tokens| tokens + llm.cached_tokens.unwrap_or(0));
    llm.output_tokens = count("completion_tokens");
    llm.reasoning_tokens = count("reasoning_tokens");
    let error = Attributes::of_object(call.get("error"));
    if call.contains("error") {
        span.status = Status::Error;
        span.status_message = error.text("message").map(str::to_owned);
        span.error_type = error.text("type").map(str::to_owned);
        llm.http_status = error.get("status_code").and_then(Value::as_int).and_then(|status| i32::try_from(status).ok());
    }
    drop(error);
    call.take("node");
    span.attributes_json = call.to_json();
    span.llm = Some(Box::new(llm));
    span
}

/// Results that no call was told, because the run ended there: leaves of the graph.
fn unheard_results(nodes: &[Node], run: &Span) -> Vec<Span> {
    let leads_on: std::collections::HashSet<usize> = nodes.iter().filter_map(|node| node.parent).collect();
    let leaves = nodes.iter().enumerate().filter(|(index, node)| node.message.role == Role::Tool && !leads_on.contains(index));
    let spans = leaves.map(|(index, node)| {
        let message = &node.message;
        Span {
            kind: Kind::Tool,
            span_id: format!("node.{index}"),
            name: message.name.clone().unwrap_or_default(),
            end_ns: node.time_ns,
            tool: Some(Box::new(Tool {
                name: message.name.clone(),
                call_id: message.tool_call_id.clone(),
                result: message.content.clone(),
                ..Tool::default()
            })),
            ..run.clone()
        }
    });
    spans.collect()
}

/// What a trace was worth is the sum of its rewards, each times its weight; the parts and the metrics stand beside it.
fn rewards(record: &mut Attributes<'_>, run: &Span) -> Option<Span> {
    let reward = |name: &str, value: f64, primary| Reward {
        name: name.to_owned(),
        value: Some(value),
        primary,
        is_final: true,
        source: Some("grader".to_owned()),
        ..Reward::default()
    };
    let object = record.take_object("rewards");
    let dimensions = Attributes::of_object(object.as_ref());
    let mut parts: Vec<(String, f64, f64)> = Vec::new();
    for (name, value) in dimensions.iter() {
        let members = Attributes::of_object(Some(value));
        let weight = members.get("weight").and_then(reward_value).unwrap_or(1.0);
        if let Some(score) = members.get("score").and_then(reward_value) {
            parts.push((name.to_owned(), score, weight));
        }
    }
    let mut found: Vec<Reward> = Vec::new();
    if let [(name, score, weight)] = &parts[..] {
        found.push(reward(name, score * weight, true));
    } else if !parts.is_empty() {
        found.push(reward("reward", parts.iter().map(|(_, score, weight)| score * weight).sum(), true));
        found.extend(parts.iter().map(|(name, score, _)| reward(name, *score, false)));
    }
    let metrics = Attributes::of_object(record.get("metrics"));
    found.extend(metrics.iter().filter_map(|(name, value)| Some(reward(name, reward_value(value)?, false))));
    (!found.is_empty()).then(|| Span {
        kind: Kind::Reward,
        kind_evidence: Some("rewards".to_owned()),
        span_id: "rewards".to_owned(),
        name: "rewards".to_owned(),
        rewards: found,
        ..run.clone()
    })
}

fn about(record: Attributes<'_>, run: Span) -> Span {
    let errors = record.get("errors").map(|errors| errors.elements().len()).unwrap_or_default();
    let is = |key| record.get(key).and_then(Value::as_bool) == Some(true);
    let status = match () {
        () if is("is_timeout") => "timeout",
        () if is("ok") => "succeeded",
        () if errors > 0 => "failed",
        () if is("is_completed") => "succeeded",
        () => "running",
    };
    let task = Attributes::of_object(record.get("task"));
    let task_input = task.get("data").and_then(Value::as_text).map(|data| data.into_owned());
    let timing = Attributes::of_object(record.get("timing"));
    let start = timing.get("start").and_then(Value::as_text).and_then(|text| time::parse(&text));
    Span {
        kind: Kind::Rollout,
        kind_evidence: Some("nodes".to_owned()),
        span_id: "trace".to_owned(),
        name: "trace".to_owned(),
        start_ns: start.map(|time| time.ns),
        time_precision_ns: start.map(|time| time.precision_ns),
        rollout: Some(Box::new(RolloutRecord { task_input, status: Some(status.to_owned()), status_message: None })),
        attributes_json: record.to_json(),
        ..run
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    fn episode(nodes: &str, rest: &str) -> Sink {
        sink_of(
            &format!(
                r#"{{"id":"e","env":{{}},"group":{{"id":"g"}},"ok":true,"traces":[{{"version":1,"id":"t","task":{{"type":"T","data":{{"id":"k","prompt":"q"}},"hash":"h"}},
                    "agent":{{"name":"solver","trainable":true}},"nodes":[{nodes}]{rest}}}]}}"#
            ),
            &[],
        )
    }

    #[test]
    fn ids_are_those_of_the_path() {
        let sink = episode(
            r#"{"parent":null,"message":{"role":"user","content":"q"},"token_ids":[1,2],"mask":[false,false]},
               {"parent":0,"message":{"role":"assistant","content":"a"},"sampled":true,"token_ids":[3,4,5],"mask":[false,true,true],"logprobs":[-0.5,-0.25]},
               {"parent":0,"message":{"role":"assistant","content":"b"},"sampled":true,"token_ids":[3,6],"mask":[false,true],"logprobs":[-1]},
               {"parent":1,"message":{"role":"user","content":"more"},"token_ids":[7],"mask":[false]},
               {"parent":3,"message":{"role":"assistant","content":"c"},"sampled":true,"token_ids":[8],"mask":[true],"logprobs":[-2]}"#,
            r#","calls":[{"node":1,"model":"m","finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":2,"cached_input_tokens":1},
                 "time":{"start":1795363157.5,"end":1795363158.0},"sampling":{"temperature":0.5}},
                {"node":null,"model":"m","error":{"type":"ProviderError","message":"busy","status_code":503}}],
               "rewards":{"exact":{"score":1.0,"weight":0.5},"style":{"score":0.25,"weight":2},"late":null},"metrics":{"turns":2},"ok":true"#,
        );
        assert_eq!(codes(&sink), [""; 0]);
        let calls: Vec<&Llm> = sink.spans.iter().filter_map(|span| span.llm.as_deref()).collect();
        let tokens: Vec<_> = calls
            .iter()
            .filter_map(|llm| {
                Some((llm.prompt_token_ids.clone()?, llm.choices[0].token_ids.clone()?, llm.choices[0].logprobs.clone()?))
            })
            .collect();
        assert_eq!(
            tokens,
            [
                (vec![1, 2, 3], vec![4, 5], vec![-0.5, -0.25]),
                (vec![1, 2, 3], vec![6], vec![-1.0]),
                (vec![1, 2, 3, 4, 5, 7], vec![8], vec![-2.0]),
            ]
        );
        assert_eq!((calls[0].input_tokens, calls[0].temperature, calls[3].http_status), (Some(3), Some(0.5), Some(503)));
        let rewards: Vec<_> = sink
            .spans
            .iter()
            .flat_map(|span| &span.rewards)
            .map(|reward| (reward.name.as_str(), reward.value.unwrap(), reward.primary))
            .collect();
        assert_eq!(rewards, [("reward", 1.0, true), ("exact", 1.0, false), ("style", 0.25, false), ("turns", 2.0, false)]);
        let identity = &sink.spans[0].identity;
        assert_eq!(identity.task_id, Some((TaskIdSource::Reference, "k".to_owned())));
        assert_eq!((identity.group_id.as_deref(), identity.agent_hint.as_deref()), (Some("g"), Some("solver")));
    }

    #[test]
    fn broken_graphs() {
        for nodes in [
            r#"{"parent":0,"message":{"role":"user","content":"q"}}"#,
            r#"{"parent":null,"message":{"role":"user","content":"q"},"token_ids":[1],"mask":[]}"#,
            "5",
        ] {
            assert_eq!(codes(&episode(nodes, "")), ["bad_value"], "{nodes}");
        }
        assert_eq!(codes(&episode(r#"{"parent":null}"#, "")), ["missing_field"]);
    }
}
