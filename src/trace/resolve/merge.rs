//! Records of one span become one: creations and their updates, the same record twice, log events that carry a call's messages.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::Node;
use crate::trace::message::{Message, Role, ToolCallRequest};
use crate::trace::span::{Choice, Identity, Kind, Llm, Origin, Span, Status, Tool};

/// Nodes of all the records of one rollout, in the order of their origins.
///
/// A record that only begins or only ends a span is merged with its other half, as LangSmith writes them. A record that says the same
/// again is kept as a duplicate. Different spans that share an id (made-up ids of two files) both stay, the later under `<id>~<n>`.
pub(super) fn records(mut spans: Vec<Span>) -> Vec<Node> {
    spans.sort_by_key(|span| span.origin);
    let mut by_id: BTreeMap<(Option<&str>, &str), Vec<usize>> = BTreeMap::new();
    for (index, span) in spans.iter().enumerate() {
        by_id.entry((span.trace_id.as_deref(), &span.span_id)).or_default().push(index);
    }
    let groups: Vec<Vec<usize>> = by_id.into_values().collect();
    let mut spans: Vec<Option<Span>> = spans.into_iter().map(Some).collect();
    let mut take = |index: usize| spans[index].take().expect("an index is in one group only");

    let mut nodes: Vec<Node> = Vec::new();
    for group in groups {
        if let [index] = group[..] {
            nodes.push(Node::new(take(index)));
            continue;
        }
        let mut records: Vec<Span> = group.into_iter().map(&mut take).collect();
        // Creations before updates, whatever file they came in.
        records.sort_by_key(|span| (span.end_ns.is_some(), span.origin));
        let first = nodes.len();
        let mut said: Vec<([u8; 32], usize)> = Vec::new();
        for record in records {
            let fingerprint = fingerprint(&record);
            let known = said.iter().find(|(known, _)| *known == fingerprint).map(|(_, node)| *node);
            let repeated = known.or_else(|| (first..nodes.len()).find(|node| repeats(&nodes[*node].span, &record)));
            if let Some(kept) = repeated.filter(|kept| nodes[*kept].dedup_of.is_none()) {
                let mut node = Node::new(record);
                node.dedup_of = Some(kept);
                nodes.push(node);
                continue;
            }
            let half = (first..nodes.len()).find(|node| nodes[*node].dedup_of.is_none() && is_half(&nodes[*node].span, &record));
            match half {
                Some(node) => {
                    update(&mut nodes[node].span, record);
                    said.push((fingerprint, node));
                }
                None => {
                    said.push((fingerprint, nodes.len()));
                    nodes.push(Node::new(record));
                }
            }
        }
    }
    number_twins(&mut nodes);
    nodes
}

/// Ids become unique in the rollout, which may have several traces: the second node of an id is `<id>~2`.
fn number_twins(nodes: &mut [Node]) {
    let mut counts: HashMap<String, usize> = HashMap::with_capacity(nodes.len());
    for node in nodes {
        let count = counts.entry(node.span.span_id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            node.id = format!("{}~{count}", node.span.span_id);
        }
    }
}

/// Two whole recordings of one span, as two exporters or two encodings write it.
fn repeats(kept: &Span, record: &Span) -> bool {
    kept.end_ns.is_some()
        && kept.start_ns.is_some()
        && (kept.start_ns, kept.end_ns, kept.kind, &kept.name) == (record.start_ns, record.end_ns, record.kind, &record.name)
}

/// Whether one of two records lacks a time that the other may have, and nothing says that they are two spans.
fn is_half(kept: &Span, record: &Span) -> bool {
    let agree = |a: Option<i64>, b: Option<i64>| a.is_none() || b.is_none() || a == b;
    // Two views of one event may both have its end and only one of them its start.
    let starts_once = kept.end_ns == record.end_ns && (kept.start_ns.is_none() || record.start_ns.is_none());
    let ends_once = kept.end_ns.is_none() || record.end_ns.is_none() || starts_once;
    let same_name = kept.name.is_empty() || record.name.is_empty() || kept.name == record.name;
    let same_kind = kept.kind == record.kind || kept.kind == Kind::Other || record.kind == Kind::Other;
    let timed = kept.start_ns.or(kept.end_ns).is_some() && record.start_ns.or(record.end_ns).is_some();
    let event = matches!(record.kind, Kind::Message | Kind::Reward | Kind::Rollout);
    timed && !event && ends_once && agree(kept.start_ns, record.start_ns) && same_name && same_kind
}

fn fingerprint(span: &Span) -> [u8; 32] {
    let mut span = span.clone();
    span.origin = Origin::default();
    // A span is plain data, so that encoding cannot fail; were it to, the record would count as one of its own.
    let bytes = postcard::to_stdvec(&span).unwrap_or_default();
    *blake3::hash(&bytes).as_bytes()
}

/// The later record wins where it says something.
fn update(kept: &mut Span, mut later: Span) {
    std::mem::swap(kept, &mut later);
    let earlier = later;
    kept.origin = earlier.origin;
    if kept.name.is_empty() {
        kept.name.clone_from(&earlier.name);
    }
    if kept.kind == Kind::Other {
        kept.kind = earlier.kind;
        kept.kind_evidence.clone_from(&earlier.kind_evidence);
    }
    if kept.status == Status::Unset {
        kept.status = earlier.status;
    }
    fill_span(kept, &earlier);
    for reward in earlier.rewards {
        if !kept.rewards.iter().any(|known| known.name == reward.name && known.value == reward.value) {
            kept.rewards.push(reward);
        }
    }
}

fn fill<T: Clone>(kept: &mut Option<T>, other: &Option<T>) {
    if kept.is_none() {
        kept.clone_from(other);
    }
}

/// Fills what `kept` does not say from another record of the same event. Statuses, names and ids are not touched.
pub(super) fn fill_span(kept: &mut Span, other: &Span) {
    fill(&mut kept.parent_span_id, &other.parent_span_id);
    fill(&mut kept.start_ns, &other.start_ns);
    fill(&mut kept.end_ns, &other.end_ns);
    fill(&mut kept.time_precision_ns, &other.time_precision_ns);
    fill(&mut kept.order, &other.order);
    fill(&mut kept.status_message, &other.status_message);
    fill(&mut kept.error_type, &other.error_type);
    fill(&mut kept.rollout, &other.rollout);
    fill(&mut kept.service_name, &other.service_name);
    fill(&mut kept.scope_name, &other.scope_name);
    fill(&mut kept.scope_version, &other.scope_version);
    fill(&mut kept.events_json, &other.events_json);
    fill(&mut kept.resource_json, &other.resource_json);
    kept.links.extend(other.links.iter().filter(|link| !link.trace_id.is_empty()).cloned());
    kept.links.dedup_by(|a, b| a.trace_id == b.trace_id && a.span_id == b.span_id);
    fill_identity(&mut kept.identity, &other.identity);
    kept.attributes_json = union_json(kept.attributes_json.take(), other.attributes_json.as_deref());
    match (&mut kept.llm, &other.llm) {
        (Some(kept), Some(other)) => fill_llm(kept, other),
        (kept, other) => fill(kept, other),
    }
    match (&mut kept.tool, &other.tool) {
        (Some(kept), Some(other)) => fill_tool(kept, other),
        (kept, other) => fill(kept, other),
    }
}

fn fill_identity(kept: &mut Identity, other: &Identity) {
    fill(&mut kept.rollout_id, &other.rollout_id);
    fill(&mut kept.attempt_id, &other.attempt_id);
    fill(&mut kept.session_id, &other.session_id);
    fill(&mut kept.group_id, &other.group_id);
    fill(&mut kept.task_id, &other.task_id);
    fill(&mut kept.split, &other.split);
    fill(&mut kept.policy_version, &other.policy_version);
    fill(&mut kept.agent, &other.agent);
    fill(&mut kept.agent_hint, &other.agent_hint);
}

pub(super) fn fill_llm(kept: &mut Llm, other: &Llm) {
    fill(&mut kept.provider, &other.provider);
    fill(&mut kept.model_requested, &other.model_requested);
    fill(&mut kept.model, &other.model);
    fill(&mut kept.response_id, &other.response_id);
    fill(&mut kept.temperature, &other.temperature);
    fill(&mut kept.top_p, &other.top_p);
    fill(&mut kept.top_k, &other.top_k);
    fill(&mut kept.max_tokens, &other.max_tokens);
    fill(&mut kept.params_json, &other.params_json);
    fill(&mut kept.prompt_token_ids, &other.prompt_token_ids);
    fill(&mut kept.input_tokens, &other.input_tokens);
    fill(&mut kept.output_tokens, &other.output_tokens);
    fill(&mut kept.cached_tokens, &other.cached_tokens);
    fill(&mut kept.reasoning_tokens, &other.reasoning_tokens);
    fill(&mut kept.stream, &other.stream);
    fill(&mut kept.http_status, &other.http_status);
    fill(&mut kept.abandoned, &other.abandoned);
    if kept.input.is_empty() {
        kept.input.clone_from(&other.input);
    }
    if kept.tools.is_empty() {
        kept.tools.clone_from(&other.tools);
    }
    kept.tools_known |= other.tools_known;
    for (choice, theirs) in kept.choices.iter_mut().zip(&other.choices) {
        fill_choice(choice, theirs);
    }
    let known = kept.choices.len();
    kept.choices.extend(other.choices.iter().skip(known).cloned());
}

fn fill_choice(kept: &mut Choice, other: &Choice) {
    fill(&mut kept.finish_reason, &other.finish_reason);
    if kept.token_ids.is_none() {
        kept.token_ids.clone_from(&other.token_ids);
        kept.logprobs.clone_from(&other.logprobs);
        kept.sampled_logprobs.clone_from(&other.sampled_logprobs);
    }
    if kept.malformed.is_empty() {
        kept.malformed.clone_from(&other.malformed);
    }
    fill(&mut kept.message.content, &other.message.content);
    fill(&mut kept.message.reasoning, &other.message.reasoning);
    fill(&mut kept.message.refusal, &other.message.refusal);
    if kept.message.tool_calls.is_empty() {
        kept.message.tool_calls.clone_from(&other.message.tool_calls);
    }
}

pub(super) fn fill_tool(kept: &mut Tool, other: &Tool) {
    fill(&mut kept.name, &other.name);
    fill(&mut kept.call_id, &other.call_id);
    fill(&mut kept.arguments, &other.arguments);
    fill(&mut kept.result, &other.result);
    fill(&mut kept.exit_code, &other.exit_code);
    if kept.result_is_error != Some(true) && other.result_is_error.is_some() {
        kept.result_is_error = other.result_is_error;
    }
    kept.retry_marker |= other.retry_marker;
    kept.exceptions.extend(other.exceptions.iter().cloned());
}

/// Both objects in one; of a key in both, the first object's value.
fn union_json(kept: Option<String>, other: Option<&str>) -> Option<String> {
    let (Some(kept), Some(other)) = (&kept, other) else { return kept.or_else(|| other.map(str::to_owned)) };
    let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let (Some(mut union), Some(theirs)) = (parse(kept), parse(other)) else { return Some(kept.clone()) };
    for (key, value) in theirs {
        union.entry(key).or_insert(value);
    }
    Some(Value::Object(union).to_string())
}

/// Moves the messages of log events into their LLM calls, in the order of their times. The events stay as rows without them.
///
/// Where the call's own span has the messages too, the events add nothing.
pub(super) fn events(nodes: &mut [Node]) {
    let mut calls: HashMap<(Option<&str>, &str), usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if node.span.kind == Kind::Llm && node.dedup_of.is_none() {
            calls.entry((node.span.trace_id.as_deref(), &node.span.span_id)).or_insert(index);
        }
    }
    let mut events: Vec<(usize, Option<i64>, Origin, usize)> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let parent = node.span.parent_span_id.as_deref();
        if let (Kind::Message, None, Some(parent)) = (node.span.kind, node.dedup_of, parent)
            && let Some(call) = calls.get(&(node.span.trace_id.as_deref(), parent))
        {
            events.push((*call, node.span.start_ns, node.span.origin, index));
        }
    }
    events.sort_unstable();
    for events in events.chunk_by(|a, b| a.0 == b.0) {
        let mut heard = Llm::default();
        for (_, _, _, event) in events {
            let Some(llm) = nodes[*event].span.llm.as_deref_mut() else { continue };
            heard.input.append(&mut llm.input);
            heard.choices.append(&mut llm.choices);
            fill_llm(&mut heard, llm);
        }
        let call = nodes[events[0].0].span.llm.get_or_insert_default();
        fill_llm(call, &heard);
    }
}

/// Adds the requests that an instrumentation wrote as spans below the call to the call's response, where the response lacks them.
/// (AgentOps writes the tool calls of a response nowhere else.) `nodes` must be in their order, parents linked.
pub(super) fn requests(nodes: &mut [Node]) {
    for index in 0..nodes.len() {
        if nodes[index].span.kind != Kind::ToolRequest || nodes[index].dedup_of.is_some() {
            continue;
        }
        let Some(call) = nodes[index].parent.filter(|parent| nodes[*parent].span.kind == Kind::Llm) else { continue };
        let Some(tool) = nodes[index].span.tool.as_deref() else { continue };
        let Some(name) = tool.name.clone() else { continue };
        let request = ToolCallRequest { id: tool.call_id.clone(), name, arguments: tool.arguments.clone().unwrap_or_default() };
        let llm = nodes[call].span.llm.get_or_insert_default();
        if llm.choices.is_empty() {
            llm.choices.push(Choice { message: Message { role: Role::Assistant, ..Message::default() }, ..Choice::default() });
        }
        let asked = &mut llm.choices[0].message.tool_calls;
        let known = |known: &ToolCallRequest| match (&known.id, &request.id) {
            (Some(known), Some(id)) => known == id,
            _ => known.name == request.name && known.arguments == request.arguments,
        };
        if !asked.iter().any(known) {
            asked.push(request);
        }
    }
}
