//! Calls that our server recorded, and the spans in which their clients recorded the same calls: the former become children of the
//! latter, so that `nested` makes one call of them, with our token ids and under the client's agent.
//!
//! A client that traces across processes says so itself (`traceparent`); most do not. Then a response's id, the ids of its tool calls, or
//! the same answer to the same question at the same time tell.

use std::collections::{HashMap, HashSet};

use super::Node;
use super::nested::{answered, asked};
use crate::trace::span::{Convention, Kind, Llm, Status};

/// Two clocks of one machine may be read in the wrong order; JavaScript's has milliseconds.
const SLACK_NS: i64 = 5_000_000;

/// Clients' spans looked at for one call, those that began last.
const MOST_CANDIDATES: usize = 64;

/// Gives calls of our server that have no parent that of their client. Before the tree is linked.
pub(super) fn adopt(nodes: &mut [Node]) {
    let is_call = |node: &Node| node.span.kind == Kind::Llm && node.dedup_of.is_none() && node.span.llm.is_some();
    let is_ours = |node: &Node| node.span.convention == Some(Convention::Fulgurite);
    let orphans: Vec<usize> = (0..nodes.len())
        .filter(|index| is_call(&nodes[*index]) && is_ours(&nodes[*index]) && nodes[*index].span.parent_span_id.is_none())
        .collect();
    if orphans.is_empty() {
        return;
    }
    let clients = Clients::new(nodes, (0..nodes.len()).filter(|index| is_call(&nodes[*index]) && !is_ours(&nodes[*index])));
    let mut answered_clients = HashSet::new();
    for index in orphans {
        let Some(client) = clients.of(nodes, index, &answered_clients) else { continue };
        if nodes[index].span.status != Status::Error {
            answered_clients.insert(client);
        }
        nodes[index].span.parent_span_id = Some(nodes[client].span.span_id.clone());
    }
}

/// The clients' spans, by what they can be found by.
struct Clients {
    /// By response id and by tool-call id; the innermost, which began last, where spans of one call are nested.
    by_id: HashMap<String, usize>,
    /// By start.
    by_time: Vec<(i64, usize)>,
}

impl Clients {
    fn new(nodes: &[Node], clients: impl Iterator<Item = usize>) -> Self {
        let mut by_time: Vec<(i64, usize)> =
            clients.map(|index| (nodes[index].span.start_ns.unwrap_or(i64::MIN), index)).collect();
        by_time.sort_unstable();
        let mut by_id = HashMap::new();
        for (_, index) in &by_time {
            for id in nodes[*index].span.llm.iter().flat_map(|llm| ids(llm)) {
                by_id.insert(id.to_owned(), *index);
            }
        }
        Self { by_id, by_time }
    }

    fn of(&self, nodes: &[Node], index: usize, taken: &HashSet<usize>) -> Option<usize> {
        let span = &nodes[index].span;
        let call = span.llm.as_deref()?;
        if let Some(client) = ids(call).find_map(|id| self.by_id.get(id)) {
            return Some(*client);
        }
        let failed = span.status == Status::Error;
        let start = span.start_ns?;
        let begun = self.by_time.partition_point(|(begin, _)| *begin <= start + SLACK_NS);
        self.by_time[..begun].iter().rev().take(MOST_CANDIDATES).map(|(_, client)| *client).find(|client| {
            let span = &nodes[*client].span;
            let open = span.end_ns.is_some_and(|end| end + SLACK_NS >= start);
            let free = failed || !taken.contains(client);
            open && free && span.llm.as_deref().is_some_and(|client| same(call, client, failed))
        })
    }
}

/// What a response is known by wherever it is recorded.
fn ids(llm: &Llm) -> impl Iterator<Item = &str> {
    let tools = llm.choices.iter().flat_map(|choice| &choice.message.tool_calls).filter_map(|call| call.id.as_deref());
    llm.response_id.as_deref().into_iter().chain(tools).filter(|id| !id.is_empty())
}

/// The same question, and the same answer where both have one.
///
/// * `failed`: the call was not answered, or its client gave it up: the client's span may hold the answer to its second try.
fn same(ours: &Llm, client: &Llm, failed: bool) -> bool {
    let (Some(question), Some(theirs)) = (asked(ours), asked(client)) else { return false };
    let agree = match (answered(ours), answered(client)) {
        (Some(answer), Some(theirs)) => failed || answer == theirs,
        _ => true,
    };
    question == theirs && agree
}
