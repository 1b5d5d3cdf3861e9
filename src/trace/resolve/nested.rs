//! Duplicates by nested or doubled instrumentation (rule 7.2): one event, one row that counts.

use std::collections::HashMap;

use super::merge::{fill_llm, fill_tool};
use super::{Node, tree};
use crate::trace::message::{Message, Role};
use crate::trace::span::{Kind, Llm, Status};

/// Marks duplicates. `nodes` must be in their order, parents linked.
pub(super) fn mark(nodes: &mut [Node]) {
    grading(nodes);
    let top_down = tree::top_down(nodes);
    model_wrappers(nodes, &top_down);
    same_response(nodes);
    tools_in_tools(nodes, &top_down);
    settle(nodes);
}

/// What happens inside of a grader is no action of the agent: its LLM and tool calls become parts of the evaluation.
fn grading(nodes: &mut [Node]) {
    let mut graded = vec![false; nodes.len()];
    for index in tree::top_down(nodes) {
        let Some(parent) = nodes[index].parent else { continue };
        graded[index] = graded[parent] || matches!(nodes[parent].span.kind, Kind::Evaluator | Kind::Reward);
        let span = &mut nodes[index].span;
        if graded[index] && matches!(span.kind, Kind::Llm | Kind::Tool | Kind::ToolRequest | Kind::Handoff) {
            span.kind = Kind::Evaluator;
            span.kind_evidence = Some("inside of an evaluation".to_owned());
        }
    }
}

/// The nearest ancestor of a kind, for every node, with no span of the kinds in `barriers` between.
fn nearest(nodes: &[Node], top_down: &[usize], kind: Kind, barriers: &[Kind]) -> Vec<Option<usize>> {
    let mut nearest = vec![None; nodes.len()];
    for index in top_down {
        let Some(parent) = nodes[*index].parent else { continue };
        let parent_kind = nodes[parent].span.kind;
        nearest[*index] = if parent_kind == kind {
            Some(parent)
        } else if barriers.contains(&parent_kind) {
            None
        } else {
            nearest[parent]
        };
    }
    nearest
}

/// An LLM span around others is a wrapper. It becomes a duplicate of the last call in it that was answered, which gets what only the
/// wrapper knows; failed calls before that one were retried by the client.
fn model_wrappers(nodes: &mut [Node], top_down: &[usize]) {
    let nearest = nearest(nodes, top_down, Kind::Llm, &[Kind::Tool, Kind::Agent, Kind::Handoff]);
    let mut inner: HashMap<usize, Vec<usize>> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if let (Kind::Llm, None, Some(wrapper)) = (node.span.kind, node.dedup_of, nearest[index]) {
            inner.entry(wrapper).or_default().push(index);
        }
    }
    for wrapper in top_down.iter().copied().filter(|index| inner.contains_key(index)) {
        let calls = &inner[&wrapper];
        let answered = |index: &&usize| nodes[**index].span.llm.as_ref().is_some_and(|llm| !llm.choices.is_empty());
        let kept = *calls.iter().rev().find(answered).or(calls.last()).expect("a wrapper has a call in it");
        nodes[wrapper].dedup_of = Some(kept);
        if calls.len() > 1 {
            for failed in calls.iter().filter(|call| **call < kept) {
                let span = &mut nodes[*failed].span;
                if span.status == Status::Error {
                    span.llm.get_or_insert_default().abandoned = Some(true);
                }
            }
        }
    }
    // From the outermost in, so that what it knows reaches the innermost call through the wrappers between them.
    for wrapper in top_down.iter().copied().filter(|index| inner.contains_key(index)) {
        let (Some(kept), 1) = (nodes[wrapper].dedup_of, inner[&wrapper].len()) else { continue };
        if let Some(llm) = nodes[wrapper].span.llm.clone() {
            fill_llm(nodes[kept].span.llm.get_or_insert_default(), &llm);
        }
        let known = nodes[wrapper].span.identity.clone();
        let identity = &mut nodes[kept].span.identity;
        identity.agent_hint = identity.agent_hint.take().or(known.agent_hint);
        identity.task_id = identity.task_id.take().or(known.task_id);
        identity.policy_version = identity.policy_version.or(known.policy_version);
    }
}

/// Two spans of one response: the one that knows more is kept. A response id that comes with different prompts or answers is
/// no id.
fn same_response(nodes: &mut [Node]) {
    let mut by_response: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if let (Kind::Llm, None, Some(llm)) = (node.span.kind, node.dedup_of, &node.span.llm)
            && let Some(response) = llm.response_id.as_ref().filter(|id| !id.is_empty())
        {
            by_response.entry(response.clone()).or_default().push(index);
        }
    }
    let mut doubled: Vec<Vec<usize>> = by_response.into_values().filter(|spans| spans.len() > 1).collect();
    doubled.sort_unstable();
    for spans in doubled {
        let knows = |index: &usize| {
            let llm = nodes[*index].span.llm.as_deref();
            let choice = llm.and_then(|llm| llm.choices.first());
            let ids = choice.is_some_and(|choice| choice.token_ids.is_some());
            (ids, choice.is_some(), llm.is_some_and(|llm| !llm.input.is_empty()), std::cmp::Reverse(*index))
        };
        let kept = spans.iter().copied().max_by_key(knows).expect("more than one span");
        for index in spans.into_iter().filter(|index| *index != kept) {
            let Some(llm) = nodes[index].span.llm.clone() else { continue };
            let known = nodes[kept].span.llm.get_or_insert_default();
            if same_answer(known, &llm) {
                fill_llm(known, &llm);
                nodes[index].dedup_of = Some(kept);
            }
        }
    }
}

/// Whether two recordings agree in what was said last and in the answer, as far as both have them. (A cache may give one response to two
/// prompts, and a test server one id to all.)
fn same_answer(a: &Llm, b: &Llm) -> bool {
    agree(asked(a), asked(b)) && agree(answered(a), answered(b))
}

/// What was said last to the model.
pub(super) fn asked(llm: &Llm) -> Option<String> {
    llm.input.iter().rev().find(|message| message.role != Role::Assistant).map(text)
}

/// Text of the first choice and the tools that it calls.
pub(super) fn answered(llm: &Llm) -> Option<(String, Vec<String>)> {
    let message = &llm.choices.first()?.message;
    Some((text(message), message.tool_calls.iter().map(|call| call.name.clone()).collect()))
}

fn text(message: &Message) -> String {
    message.content.as_deref().unwrap_or_default().trim().to_owned()
}

fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// A tool span in a tool span of the same name, without a model or an agent between: one call. The outer is kept; its status is the
/// worse of the two, arguments and result come from whichever has them.
fn tools_in_tools(nodes: &mut [Node], top_down: &[usize]) {
    let nearest = nearest(nodes, top_down, Kind::Tool, &[Kind::Llm, Kind::Agent, Kind::Handoff]);
    for index in top_down.iter().rev().copied() {
        let (Kind::Tool, None, Some(outer)) = (nodes[index].span.kind, nodes[index].dedup_of, nearest[index]) else {
            continue;
        };
        if nodes[outer].dedup_of.is_some() || !same_tool(&nodes[outer], &nodes[index]) {
            continue;
        }
        let inner = nodes[index].span.clone();
        nodes[index].dedup_of = Some(outer);
        let kept = &mut nodes[outer].span;
        if inner.status == Status::Error {
            kept.status = Status::Error;
            kept.status_message = kept.status_message.take().or(inner.status_message);
            kept.error_type = kept.error_type.take().or(inner.error_type);
        }
        if let Some(tool) = &inner.tool {
            fill_tool(kept.tool.get_or_insert_default(), tool);
        }
    }
}

fn same_tool(outer: &Node, inner: &Node) -> bool {
    let name = |node: &Node| {
        let name = node.span.tool.as_ref().and_then(|tool| tool.name.clone()).unwrap_or_else(|| node.span.name.clone());
        name.rsplit('.').next().unwrap_or_default().to_owned()
    };
    name(outer) == name(inner)
}

/// Every duplicate names the row that is kept in the end, not another duplicate.
fn settle(nodes: &mut [Node]) {
    let mut path = Vec::new();
    for index in 0..nodes.len() {
        let mut kept = index;
        while let Some(further) = nodes[kept].dedup_of.filter(|_| path.len() <= nodes.len()) {
            path.push(kept);
            kept = further;
        }
        for duplicate in path.drain(..) {
            nodes[duplicate].dedup_of = Some(kept);
        }
    }
}
