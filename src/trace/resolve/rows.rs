//! From the nodes of a rollout to its rows.

use std::collections::HashMap;

use super::join::RolloutSource;
use super::row::Row;
use super::status::{Clues, arguments_hash, is_empty_result, judge, valid_arguments};
use super::tools::Unseen;
use super::{Node, llm};
use crate::trace::message::messages_to_json;
use crate::trace::span::{Kind, Link, Llm, Reward, RewardTarget, TaskIdSource};

/// Appends the rows of one rollout. `nodes` must be in their order.
///
/// One row a node; after it a row for each further choice, each tool call that has no span and each further reward dimension.
pub(super) fn build(rollout: &str, source: RolloutSource, mut nodes: Vec<Node>, rows: &mut Vec<Row>) {
    let task = task_of(&nodes);
    let targets = Targets::new(&nodes);
    let ids: Vec<String> = nodes.iter().map(|node| node.id.clone()).collect();
    let offers: Vec<Option<Offer>> = nodes.iter().map(Offer::of).collect();
    let first = rows.len();
    for index in 0..nodes.len() {
        let asker = nodes[index].asked.as_ref().map(|asked| asked.call);
        let offer = asker.and_then(|asker| offers[asker].as_ref());
        let dedup_of = nodes[index].dedup_of.map(|kept| ids[kept].clone());
        let node = &mut nodes[index];
        let unseen = std::mem::take(&mut node.unseen);
        let rewards = std::mem::take(&mut node.span.rewards);
        let llm = node.span.llm.take();

        let mut row = span_row(node);
        row.dedup_of = dedup_of;
        match node.span.kind {
            Kind::Tool | Kind::Handoff => tool_columns(&mut row, node, asker.map(|asker| ids[asker].clone()), offer),
            Kind::ToolRequest => request_columns(&mut row, node),
            _ => {}
        }
        let mut more = Vec::new();
        if let Some(mut llm) = llm {
            more.extend(more_choices(&row, &llm));
            llm_columns(&mut row, &mut llm);
        }
        let offer = offers[index].as_ref();
        more.extend(unseen.into_iter().map(|unseen| unseen_row(&row, unseen, offer)));
        number_twins(&mut more);
        reward_rows(&mut row, &mut more, rewards, &targets);
        rows.push(row);
        rows.append(&mut more);
    }
    for (seq, row) in (0..).zip(&mut rows[first..]) {
        row.rollout_id = rollout.to_owned();
        row.rollout_id_source = source.as_str();
        row.seq = seq;
        if let Some((source, task)) = &task {
            row.task_id = Some(task.clone());
            row.task_id_source = Some(*source);
        }
    }
}

/// The task of a rollout: the best source that any of its spans has, the earliest span of those; else the group; else a hash of the
/// first prompt.
fn task_of(nodes: &[Node]) -> Option<(TaskIdSource, String)> {
    let kept = || nodes.iter().filter(|node| node.dedup_of.is_none()).map(|node| &node.span);
    let stated = kept().filter_map(|span| span.identity.task_id.as_ref());
    let group = kept().find_map(|span| span.identity.group_id.clone());
    let prompt = || kept().filter(|span| span.kind == Kind::Llm).find_map(|span| llm::task_hash(&span.llm.as_ref()?.input));
    stated
        .min_by_key(|(source, _)| *source)
        .cloned()
        .or_else(|| Some((TaskIdSource::Group, group?)))
        .or_else(|| Some((TaskIdSource::Prompt, prompt()?)))
}

/// The columns that every kind of span has.
fn span_row(node: &mut Node) -> Row {
    let span = &mut node.span;
    let identity = std::mem::take(&mut span.identity);
    let rollout = span.rollout.take();
    let links = std::mem::take(&mut span.links);
    let (task_input, rollout_status, record_message) = match rollout {
        Some(record) => (record.task_input, record.status, record.status_message),
        None => (None, None, None),
    };
    Row {
        span_id: node.id.clone(),
        parent_span_id: span.parent_span_id.take(),
        trace_id: span.trace_id.clone(),
        depth: i32::try_from(node.depth).unwrap_or(i32::MAX),
        kind: span.kind,
        kind_evidence: span.kind_evidence.take(),
        name: Some(std::mem::take(&mut span.name)).filter(|name| !name.is_empty()),
        attempt_id: identity.attempt_id,
        session_id: identity.session_id,
        group_id: identity.group_id,
        task_input,
        split: identity.split,
        policy_version: identity.policy_version,
        rollout_status,
        start_ns: span.start_ns,
        end_ns: span.end_ns,
        time_precision_ns: span.time_precision_ns,
        status: span.status,
        status_message: span.status_message.clone().or(record_message),
        error_type: span.error_type.clone(),
        agent: node.agents.last().cloned(),
        agent_path: (!node.agents.is_empty()).then(|| node.agents.join("/")),
        service_name: span.service_name.take(),
        scope_name: span.scope_name.take(),
        scope_version: span.scope_version.take(),
        events: span.events_json.take(),
        links: links_json(&links),
        attributes: span.attributes_json.take(),
        resource: span.resource_json.take(),
        origin: span.origin,
        source_format: span.format,
        convention: span.convention,
        ..Row::default()
    }
}

fn links_json(links: &[Link]) -> Option<String> {
    if links.is_empty() {
        return None;
    }
    let links: Vec<serde_json::Value> = links
        .iter()
        .map(|link| {
            let attributes = link.attributes_json.as_deref().and_then(|json| serde_json::from_str(json).ok());
            let attributes: serde_json::Value = attributes.unwrap_or_default();
            serde_json::json!({ "trace_id": link.trace_id, "span_id": link.span_id, "attributes": attributes })
        })
        .collect();
    Some(serde_json::Value::Array(links).to_string())
}

/// A row that a span's row implies, under an id made from it.
fn implied_row(row: &Row, span_id: String, kind: Kind) -> Row {
    Row {
        span_id,
        kind,
        parent_span_id: Some(row.span_id.clone()),
        trace_id: row.trace_id.clone(),
        depth: row.depth.saturating_add(1),
        dedup_of: row.dedup_of.clone(),
        attempt_id: row.attempt_id.clone(),
        session_id: row.session_id.clone(),
        group_id: row.group_id.clone(),
        split: row.split.clone(),
        policy_version: row.policy_version,
        time_precision_ns: row.time_precision_ns,
        agent: row.agent.clone(),
        agent_path: row.agent_path.clone(),
        service_name: row.service_name.clone(),
        scope_name: row.scope_name.clone(),
        scope_version: row.scope_version.clone(),
        origin: row.origin,
        source_format: row.source_format,
        convention: row.convention,
        ..Row::default()
    }
}

fn llm_columns(row: &mut Row, llm: &mut Llm) {
    row.provider = llm.provider.take();
    row.model_requested = llm.model_requested.take();
    row.model = llm.model.take();
    row.response_id = llm.response_id.take();
    row.http_status = llm.http_status;
    row.abandoned = llm.abandoned;
    row.stream = llm.stream;
    row.input_tokens = llm.input_tokens;
    row.output_tokens = llm.output_tokens;
    row.cached_tokens = llm.cached_tokens;
    row.reasoning_tokens = llm.reasoning_tokens;
    if llm.choices.len() > 1 {
        share_out_tokens(row, llm, 0);
    }
    request_half(row, llm);
    choice_columns(row, llm, 0);
    row.prompt_token_ids = llm.prompt_token_ids.take();
    row.request_params = llm.params_json.take();
}

/// What the choices of one request share.
fn request_half(row: &mut Row, llm: &Llm) {
    row.temperature = llm.temperature;
    row.top_p = llm.top_p;
    row.top_k = llm.top_k;
    row.max_tokens = llm.max_tokens;
    row.tools = llm::tools_json(llm);
    if !llm.input.is_empty() {
        row.input_messages = Some(messages_to_json(&llm.input));
    }
    row.observation_hash = llm::observation_hash(&llm.input);
    row.prompt_hash = llm::prompt_hash(llm);
}

fn choice_columns(row: &mut Row, llm: &Llm, index: usize) {
    let Some(choice) = llm.choices.get(index) else { return };
    row.choice_index = i32::try_from(index).ok();
    row.output_messages = Some(messages_to_json(std::slice::from_ref(&choice.message)));
    row.finish_reason = choice.finish_reason.as_deref().map(llm::finish_reason);
    row.refusal = Some(llm::refuses(choice));
    row.response_empty = llm::is_empty(choice);
    row.response_token_ids = choice.token_ids.clone();
    (row.behaviour_logprobs, row.sampled_logprobs) = llm::logprobs(llm, choice);
}

/// Sibling calls for the choices after the first.
fn more_choices(row: &Row, llm: &Llm) -> Vec<Row> {
    (1..llm.choices.len())
        .map(|index| {
            let mut choice = implied_row(row, choice_id(&row.span_id, index), Kind::Llm);
            choice.parent_span_id = row.parent_span_id.clone();
            choice.depth = row.depth;
            choice.name = row.name.clone();
            choice.kind_evidence = row.kind_evidence.clone();
            choice.start_ns = row.start_ns;
            choice.end_ns = row.end_ns;
            choice.status = row.status;
            choice.provider = llm.provider.clone();
            choice.model_requested = llm.model_requested.clone();
            choice.model = llm.model.clone();
            choice.response_id = llm.response_id.clone();
            choice.http_status = llm.http_status;
            choice.abandoned = llm.abandoned;
            choice.stream = llm.stream;
            choice.prompt_token_ids = llm.prompt_token_ids.clone();
            choice.request_params = llm.params_json.clone();
            request_half(&mut choice, llm);
            choice_columns(&mut choice, llm, index);
            share_out_tokens(&mut choice, llm, index);
            choice
        })
        .collect()
}

/// Usage is stated once for all choices. Each choice counts its own ids where all have them; else the first row has it all, so that
/// sums stay true.
fn share_out_tokens(row: &mut Row, llm: &Llm, index: usize) {
    if llm.choices.iter().all(|choice| choice.token_ids.is_some()) {
        let ids = llm.choices[index].token_ids.as_ref().map_or(0, Vec::len);
        row.output_tokens = i64::try_from(ids).ok();
    }
}

fn choice_id(span_id: &str, index: usize) -> String {
    if index == 0 { span_id.to_owned() } else { format!("{span_id}#{index}") }
}

/// What a tool call's asker offered: names of tools.
struct Offer(Vec<String>);

impl Offer {
    fn of(node: &Node) -> Option<Self> {
        let llm = node.span.llm.as_ref().filter(|llm| llm.tools_known)?;
        Some(Self(llm.tools.iter().map(|tool| tool.name.clone()).collect()))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|offered| offered == name)
    }
}

fn tool_columns(row: &mut Row, node: &Node, asker: Option<String>, offer: Option<&Offer>) {
    let tool = node.span.tool.as_deref();
    let asked = node.asked.as_ref();
    // A handoff may be recorded as one between agents, without the tool that the model called for it.
    row.tool_name = tool.and_then(|tool| tool.name.clone()).or_else(|| asked?.name.clone());
    row.tool_call_id = tool.and_then(|tool| tool.call_id.clone()).or_else(|| asked?.tool_call_id.clone());
    row.asked_by = asker;
    row.asked_by_source = asked.map(|asked| asked.source);
    row.tool_offered = row.tool_name.as_deref().and_then(|name| Some(offer?.has(name)));

    // What the model wrote, where it is known: some frameworks record the arguments as they passed them on.
    let written = asked.and_then(|asked| asked.arguments.clone()).filter(|written| !written.trim().is_empty());
    let passed = tool.and_then(|tool| tool.arguments.clone());
    // The framework ran the tool, so that arguments in another shape than an object do not mean that the model wrote them so.
    row.arguments_valid = match &written {
        Some(written) => valid_arguments(written),
        None => passed.as_deref().and_then(valid_arguments).filter(|valid| *valid),
    };
    row.tool_arguments = written.or(passed);
    row.arguments_hash = hash_call(row);

    let answer = node.answer.as_ref();
    row.tool_result = tool.and_then(|tool| tool.result.clone()).or_else(|| answer?.text.clone());
    row.result_empty = row.tool_result.as_deref().map(is_empty_result);
    let (status, evidence) = judge(Clues {
        span: Some(&node.span),
        name: row.tool_name.as_deref(),
        result: row.tool_result.as_deref(),
        is_error: answer.and_then(|answer| answer.is_error),
    });
    row.tool_status = Some(status);
    row.tool_status_evidence = Some(evidence);
}

fn hash_call(row: &Row) -> Option<String> {
    Some(arguments_hash(row.tool_name.as_deref()?, row.tool_arguments.as_deref().unwrap_or_default()))
}

/// A request is no tool call: it has no fate.
fn request_columns(row: &mut Row, node: &Node) {
    let Some(tool) = node.span.tool.as_deref() else { return };
    row.tool_name = tool.name.clone();
    row.tool_call_id = tool.call_id.clone();
    row.tool_arguments = tool.arguments.clone();
}

/// Name of a row whose text was meant for a tool call.
const MALFORMED: &str = "malformed tool call";

/// The row of a tool call that only messages know of.
fn unseen_row(call: &Row, unseen: Unseen, offer: Option<&Offer>) -> Row {
    let asker = choice_id(&call.span_id, unseen.choice);
    let id = unseen.id.clone().unwrap_or_else(|| unseen.position.to_string());
    let mut row = implied_row(call, format!("{asker}:{id}"), Kind::Tool);
    row.kind_evidence = Some("messages".to_owned());
    row.parent_span_id = Some(asker.clone());
    row.name = Some(unseen.name.clone().unwrap_or_else(|| MALFORMED.to_owned()));
    row.tool_call_id = unseen.id;
    row.asked_by = Some(asker);
    row.asked_by_source = Some("message");
    row.tool_offered = unseen.name.as_deref().and_then(|name| Some(offer?.has(name)));
    row.arguments_valid = if unseen.name.is_some() { valid_arguments(&unseen.arguments) } else { Some(false) };
    row.tool_arguments = Some(unseen.arguments);
    row.tool_name = unseen.name;
    row.arguments_hash = hash_call(&row);
    let answer = unseen.answer.unwrap_or_default();
    row.tool_result = answer.text;
    row.result_empty = row.tool_result.as_deref().map(is_empty_result);
    let (status, evidence) = judge(Clues {
        span: None,
        name: row.tool_name.as_deref(),
        result: row.tool_result.as_deref(),
        is_error: answer.is_error,
    });
    row.tool_status = Some(status);
    row.tool_status_evidence = Some(evidence);
    row
}

/// One response may use a tool-call id twice: the later row is told apart by its number.
fn number_twins(rows: &mut [Row]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let count = seen.entry(row.span_id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            row.span_id = format!("{}~{count}", row.span_id);
        }
    }
}

/// The first dimension of a reward span is on its own row; the others, and scores that another span carries, on rows of their own.
fn reward_rows(row: &mut Row, more: &mut Vec<Row>, rewards: Vec<Reward>, targets: &Targets) {
    let own = row.kind == Kind::Reward;
    let further = more.iter().filter(|more| more.kind == Kind::Llm).count();
    let mut rest = rewards.into_iter();
    if own && let Some(reward) = rest.next() {
        reward_columns(row, reward, targets);
    }
    for (number, reward) in rest.enumerate() {
        let mut dimension = implied_row(row, format!("{}#{}", row.span_id, further + number + 1), Kind::Reward);
        dimension.start_ns = row.start_ns;
        dimension.end_ns = row.end_ns;
        dimension.name = row.name.clone();
        if own {
            dimension.parent_span_id = row.parent_span_id.clone();
            dimension.depth = row.depth;
        }
        let carried = !own && reward.target.is_none() && !reward.is_final;
        reward_columns(&mut dimension, reward, targets);
        if carried {
            dimension.reward_target = Some(row.dedup_of.clone().unwrap_or_else(|| row.span_id.clone()));
            dimension.dedup_of = None;
        }
        more.push(dimension);
    }
}

fn reward_columns(row: &mut Row, reward: Reward, targets: &Targets) {
    let target = reward.target.as_ref();
    row.reward_target = target.and_then(|target| targets.find(target));
    // A target that names a trace and nothing in it is the run as a whole.
    let whole = target.is_some_and(|target| {
        target.trace_id.is_some() && target.span_id.is_none() && target.response_id.is_none() && target.tool_call_id.is_none()
    });
    row.reward_name = Some(reward.name);
    row.reward_value = reward.value.filter(|value| value.is_finite());
    row.reward_label = reward.label;
    row.reward_source = reward.source;
    row.reward_comment = reward.comment;
    row.reward_primary = Some(reward.primary);
    row.reward_final = Some(reward.is_final || whole);
}

/// What rewards may point at, by the ids that they may use.
struct Targets {
    spans: HashMap<String, Vec<(Option<String>, String)>>,
    responses: HashMap<String, String>,
    tool_calls: HashMap<String, String>,
}

impl Targets {
    fn new(nodes: &[Node]) -> Self {
        let mut targets = Self { spans: HashMap::new(), responses: HashMap::new(), tool_calls: HashMap::new() };
        let mut rewards = nodes.iter().flat_map(|node| &node.span.rewards);
        if !rewards.any(|reward| reward.target.is_some()) {
            return targets;
        }
        for node in nodes {
            let kept = node.dedup_of.map_or(node, |kept| &nodes[kept]);
            let spans = targets.spans.entry(node.span.span_id.clone()).or_default();
            spans.push((node.span.trace_id.clone(), kept.id.clone()));
            if let Some(response) = node.span.llm.as_ref().and_then(|llm| llm.response_id.clone()) {
                targets.responses.entry(response).or_insert_with(|| kept.id.clone());
            }
            let tool = node.span.tool.as_ref().and_then(|tool| tool.call_id.clone());
            let asked = node.asked.as_ref().and_then(|asked| asked.tool_call_id.clone());
            if let (Kind::Tool | Kind::Handoff, Some(id)) = (node.span.kind, tool.or(asked)) {
                targets.tool_calls.entry(id).or_insert_with(|| kept.id.clone());
            }
            for unseen in &node.unseen {
                if let Some(id) = &unseen.id {
                    let row = format!("{}:{id}", choice_id(&node.id, unseen.choice));
                    targets.tool_calls.entry(id.clone()).or_insert(row);
                }
            }
        }
        targets
    }

    /// The row that is meant; the stated span id where the rollout has no such span. Every id that is stated must agree.
    fn find(&self, target: &RewardTarget) -> Option<String> {
        let span = target.span_id.as_ref().map(|id| {
            let found = self
                .spans
                .get(id)
                .into_iter()
                .flatten()
                .find(|(trace, _)| target.trace_id.is_none() || trace.is_none() || *trace == target.trace_id);
            found.map_or_else(|| id.clone(), |(_, row)| row.clone())
        });
        let response = target.response_id.as_ref().map(|id| self.responses.get(id).unwrap_or(id).clone());
        let tool_call = target.tool_call_id.as_ref().map(|id| self.tool_calls.get(id).unwrap_or(id).clone());
        let mut stated = [span, response, tool_call].into_iter().flatten();
        let first = stated.next()?;
        stated.all(|other| other == first).then_some(first)
    }
}
