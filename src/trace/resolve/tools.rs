//! Which LLM call asked for each tool call, and the tool calls that only messages know of.

use std::collections::HashMap;
use std::sync::Arc;

use super::Node;
use super::status::{arguments_hash, is_handoff_tool};
use crate::trace::message::{Message, Role};
use crate::trace::span::{Choice, Kind, Status};

/// How many later LLM calls are searched for a tool's result, and how many earlier requests for the one that a tool span answers.
/// Parallel agents interleave, so that the next call is not always the asker's.
const LOOK_AROUND: usize = 8;

/// The request that a tool span answers.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Index of the LLM call.
    pub call: usize,
    /// Place among the requests of that call.
    pub position: usize,
    /// `id` or `order`.
    pub source: &'static str,
    /// The tool that the model named; `None` where its response was not recorded.
    pub name: Option<String>,
    /// As the model wrote them; `None` where its response was not recorded.
    pub arguments: Option<String>,
    pub tool_call_id: Option<String>,
}

/// What an LLM call was told about a tool's result.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub text: Option<String>,
    pub is_error: Option<bool>,
}

/// A tool call without a span of its own, known from the messages of LLM calls.
#[derive(Debug, Clone)]
pub(super) struct Unseen {
    pub choice: usize,
    /// Place among the requests of that call.
    pub position: usize,
    pub id: Option<String>,
    /// `None` for what could not be read as a call.
    pub name: Option<String>,
    pub arguments: String,
    pub answer: Option<Answer>,
}

#[derive(Debug)]
struct Request {
    call: usize,
    choice: usize,
    position: usize,
    id: Option<String>,
    name: String,
    arguments: String,
    taken: bool,
}

/// Finds the asker of every tool span and keeps what was asked for and has no span with its call. `nodes` must be in their order.
pub(super) fn connect(nodes: &mut [Node]) {
    let mut requests = Vec::new();
    let mut calls = Vec::new();
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| is_call(node)) {
        calls.push(index);
        requests.extend(requests_of(node, index));
    }
    let tools: Vec<usize> = (0..nodes.len())
        .filter(|index| nodes[*index].dedup_of.is_none() && matches!(nodes[*index].span.kind, Kind::Tool | Kind::Handoff))
        .collect();
    by_id(nodes, &tools, &mut requests);
    by_name(nodes, &tools, &mut requests);
    by_turn(nodes, &tools, &calls);

    let mut answers: HashMap<(usize, usize), Answer> = HashMap::new();
    for asked in requests.chunk_by(|a, b| a.call == b.call) {
        answers.extend(find_answers(nodes, &calls, asked));
    }
    for tool in tools {
        let Some(asked) = &nodes[tool].asked else { continue };
        nodes[tool].answer = answers.get(&(asked.call, asked.position)).cloned();
        // Who asked acted. The graph's nodes above a tool are not always those above the call that asked.
        nodes[tool].agents = Arc::clone(&nodes[asked.call].agents);
    }
    for request in requests.into_iter().filter(|request| !request.taken) {
        let answer = answers.remove(&(request.call, request.position));
        nodes[request.call].unseen.push(Unseen {
            choice: request.choice,
            position: request.position,
            id: request.id,
            name: Some(request.name),
            arguments: request.arguments,
            answer,
        });
    }
    for node in nodes.iter_mut().filter(|node| is_call(node)) {
        let choices = node.span.llm.iter().flat_map(|llm| llm.choices.iter().enumerate());
        let malformed: Vec<Unseen> = choices.flat_map(|(index, choice)| malformed(index, choice)).collect();
        node.unseen.extend(malformed);
    }
}

/// What was meant for a tool call and is none: nobody was asked, and the model has to answer for it.
fn malformed(index: usize, choice: &Choice) -> impl Iterator<Item = Unseen> + '_ {
    let asked = choice.message.tool_calls.len();
    choice.malformed.iter().zip(asked..).map(move |(text, position)| Unseen {
        choice: index,
        position,
        id: None,
        name: None,
        arguments: text.clone(),
        answer: None,
    })
}

fn is_call(node: &Node) -> bool {
    node.span.kind == Kind::Llm && node.dedup_of.is_none()
}

fn requests_of(node: &Node, call: usize) -> Vec<Request> {
    let choices = node.span.llm.as_deref().map(|llm| llm.choices.as_slice()).unwrap_or_default();
    let asked =
        choices.iter().enumerate().flat_map(|(choice, said)| said.message.tool_calls.iter().map(move |asked| (choice, asked)));
    asked
        .enumerate()
        .map(|(position, (choice, asked))| Request {
            call,
            choice,
            position,
            id: asked.id.clone().filter(|id| !id.is_empty()),
            name: asked.name.clone(),
            arguments: asked.arguments.clone(),
            taken: false,
        })
        .collect()
}

/// By the tool call's id. Where ids repeat (`call_1` in every step), the latest earlier request that is still open.
fn by_id(nodes: &mut [Node], tools: &[usize], requests: &mut [Request]) {
    let mut with_id: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, request) in requests.iter().enumerate() {
        if let Some(id) = &request.id {
            with_id.entry(id.clone()).or_default().push(place);
        }
    }
    for tool in tools {
        let Some(id) = nodes[*tool].span.tool.as_ref().and_then(|tool| tool.call_id.as_deref()) else { continue };
        let Some(places) = with_id.get(id) else { continue };
        let earlier = places.partition_point(|place| requests[*place].call < *tool);
        let open = |place: &&usize| !requests[**place].taken;
        let found = places[..earlier].iter().rev().take(LOOK_AROUND).find(open);
        let found = found.or_else(|| places[earlier..].iter().take(LOOK_AROUND).find(open)).or(places[..earlier].last());
        if let Some(place) = found.copied() {
            nodes[*tool].asked = Some(take(&mut requests[place], "id"));
        }
    }
}

/// By name and order: an earlier open request for the tool, of the same agent if there is one, with the same arguments if there is one.
fn by_name(nodes: &mut [Node], tools: &[usize], requests: &mut [Request]) {
    let mut with_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, request) in requests.iter().enumerate() {
        with_name.entry(key(&request.name).to_owned()).or_default().push(place);
        if is_handoff_tool(&request.name) {
            with_name.entry(ANY_HANDOFF.to_owned()).or_default().push(place);
        }
    }
    for tool in tools {
        let node = &nodes[*tool];
        if node.asked.is_some() {
            continue;
        }
        let own = node.span.tool.as_ref().and_then(|tool| tool.name.as_deref());
        let names = [own.map(key), (node.span.kind == Kind::Handoff).then_some(ANY_HANDOFF)];
        let target = node.span.identity.agent.as_deref().unwrap_or_default();
        let arguments = node.span.tool.as_ref().and_then(|tool| tool.arguments.as_deref()).unwrap_or_default();
        let arguments = arguments_hash("", arguments);
        let best = names.into_iter().flatten().find_map(|name| {
            let places = with_name.get(name)?;
            let earlier = places.partition_point(|place| requests[*place].call < *tool);
            let open = places[..earlier].iter().rev().filter(|place| !requests[**place].taken).take(LOOK_AROUND);
            open.copied().max_by_key(|place| {
                let request = &requests[*place];
                let same_agent = nodes[request.call].agents == node.agents;
                let to_target = !target.is_empty() && request.name.contains(target);
                let same_arguments = arguments_hash("", &request.arguments) == arguments;
                (same_agent, request.call, to_target, same_arguments, std::cmp::Reverse(request.position))
            })
        });
        if let Some(place) = best {
            nodes[*tool].asked = Some(take(&mut requests[place], "order"));
        }
    }
}

/// Key under which every handoff request stands, since a handoff span names agents and no tool.
const ANY_HANDOFF: &str = "\0handoff";

/// A tool's own name, without the agent or server that some instrumentations put before it.
fn key(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn take(request: &mut Request, source: &'static str) -> Asked {
    request.taken = true;
    Asked {
        call: request.call,
        position: request.position,
        source,
        name: Some(request.name.clone()),
        arguments: Some(request.arguments.clone()),
        tool_call_id: request.id.clone(),
    }
}

/// By turn: where responses are not recorded, the agent's latest call before the tool is its asker.
fn by_turn(nodes: &mut [Node], tools: &[usize], calls: &[usize]) {
    let mut latest: HashMap<Arc<Vec<String>>, usize> = HashMap::new();
    let mut calls = calls.iter().copied().peekable();
    let mut asked_of: HashMap<usize, usize> = HashMap::new();
    for tool in tools {
        while let Some(call) = calls.next_if(|call| call < tool) {
            latest.insert(Arc::clone(&nodes[call].agents), call);
        }
        let Some(call) = latest.get(&nodes[*tool].agents).copied() else { continue };
        let silent = nodes[call].span.llm.as_ref().is_none_or(|llm| llm.choices.is_empty());
        if nodes[*tool].asked.is_none() && silent && nodes[call].span.status != Status::Error {
            let position = asked_of.entry(call).or_default();
            nodes[*tool].asked =
                Some(Asked { call, position: *position, source: "order", name: None, arguments: None, tool_call_id: None });
            *position += 1;
        }
    }
}

/// Results of one call's requests: from the later call that was told of them, by id, else by place where ids were rewritten on the way.
fn find_answers(nodes: &[Node], calls: &[usize], asked: &[Request]) -> HashMap<(usize, usize), Answer> {
    let call = asked[0].call;
    let later = calls.partition_point(|later| *later <= call);
    let input = |later: usize| nodes[later].span.llm.as_deref().map(|llm| llm.input.as_slice()).unwrap_or_default();
    let later: Vec<&[Message]> = calls[later..].iter().take(LOOK_AROUND).map(|later| input(*later)).collect();

    let mut answers = HashMap::new();
    for request in asked {
        let Some(id) = request.id.as_deref() else { continue };
        let told = |message: &&Message| message.role == Role::Tool && message.tool_call_id.as_deref() == Some(id);
        let fresh = later.iter().find_map(|input| latest_turn(input).1.iter().find(told));
        let found = fresh.or_else(|| later.iter().take(2).find_map(|input| input.iter().rev().find(told)));
        if let Some(message) = found {
            answers.insert((call, request.position), answer(message));
        }
    }
    if answers.is_empty() {
        let names: Vec<&str> = asked.iter().map(|request| request.name.as_str()).collect();
        let by_place = later.iter().find_map(|input| {
            let (said, heard) = latest_turn(input);
            let said: Vec<&str> = said.iter().flat_map(|said| &said.tool_calls).map(|call| call.name.as_str()).collect();
            let results: Vec<&Message> = heard.iter().filter(|message| message.role == Role::Tool).collect();
            (said == names && results.len() == names.len()).then_some(results)
        });
        for (request, message) in asked.iter().zip(by_place.into_iter().flatten()) {
            answers.insert((call, request.position), answer(message));
        }
    }
    answers
}

fn answer(message: &Message) -> Answer {
    Answer { text: message.content.clone().or_else(|| message.parts_json.clone()), is_error: message.is_error }
}

/// The latest run of assistant messages of a prompt, and what came after it. (Responses-API bridges split one answer over several.)
fn latest_turn(input: &[Message]) -> (&[Message], &[Message]) {
    let end = input.iter().rposition(|message| message.role == Role::Assistant).map_or(0, |last| last + 1);
    let begin = input[..end].iter().rposition(|message| message.role != Role::Assistant).map_or(0, |before| before + 1);
    (&input[begin..end], &input[end..])
}
