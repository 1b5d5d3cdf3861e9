//! Parents, depths and the total order of a rollout's spans (rule 7.3). Nothing here recurses: chains may be as deep as a file is long.

use std::collections::HashMap;

use super::Node;
use crate::trace::span::Kind;

/// Links every node to its parent and counts its ancestors. A parent that was not recorded makes a root; so does the earliest span
/// of a cycle of parents.
pub(super) fn link(nodes: &mut [Node]) {
    let mut by_id: HashMap<(Option<&str>, &str), usize> = HashMap::with_capacity(nodes.len());
    let mut by_span: HashMap<&str, Option<usize>> = HashMap::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        if node.dedup_of.is_some() || node.span.kind == Kind::Message {
            continue;
        }
        by_id.entry((node.span.trace_id.as_deref(), &node.span.span_id)).or_insert(index);
        by_span.entry(&node.span.span_id).and_modify(|known| *known = None).or_insert(Some(index));
    }
    let parents: Vec<Option<usize>> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let parent = node.span.parent_span_id.as_deref()?;
            let same_trace = by_id.get(&(node.span.trace_id.as_deref(), parent)).copied();
            // Another trace of the rollout, where only one span has the id.
            same_trace.or_else(|| by_span.get(parent).copied().flatten()).filter(|parent| *parent != index)
        })
        .collect();
    for (node, parent) in nodes.iter_mut().zip(parents) {
        node.parent = parent;
    }
    count_depths(nodes);
}

fn count_depths(nodes: &mut [Node]) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::No; nodes.len()];
    let mut path = Vec::new();
    for start in 0..nodes.len() {
        let mut at = start;
        loop {
            match seen[at] {
                Seen::Done => break,
                Seen::No => {
                    seen[at] = Seen::OnPath;
                    path.push(at);
                    match nodes[at].parent {
                        Some(parent) => at = parent,
                        None => break,
                    }
                }
                Seen::OnPath => {
                    let begin = path.iter().position(|node| *node == at).unwrap_or_default();
                    let first = path[begin..].iter().copied().min_by_key(|node| {
                        let span = &nodes[*node].span;
                        (span.start_ns.unwrap_or(i64::MAX), span.origin)
                    });
                    let first = first.unwrap_or(at);
                    nodes[first].parent = None;
                    // Walk the path again, now that it has an end.
                    for node in path.drain(..) {
                        seen[node] = Seen::No;
                    }
                    at = start;
                }
            }
        }
        while let Some(node) = path.pop() {
            nodes[node].depth = nodes[node].parent.map_or(0, |parent| nodes[parent].depth + 1);
            seen[node] = Seen::Done;
        }
    }
}

/// Indices from the roots down: every parent before its children.
pub(super) fn top_down(nodes: &[Node]) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..nodes.len()).collect();
    indices.sort_by_key(|index| nodes[*index].depth);
    indices
}

/// Puts nodes into the total order of the rollout.
///
/// The source's own order first, where every span but the records about the rollout has it. Then start, depth, place in the
/// assistant message that asked (for parallel tool calls), end and origin. A span without times counts as starting with its
/// parent, or, without one, stands last; where no span has times, origins decide alone.
pub(super) fn sort(nodes: &mut Vec<Node>) {
    let about_rollout = |kind: Kind| matches!(kind, Kind::Reward | Kind::Rollout | Kind::Message);
    let ordered = nodes.iter().all(|node| node.span.order.is_some() || about_rollout(node.span.kind));
    let mut starts: Vec<Option<i64>> = vec![None; nodes.len()];
    for index in top_down(nodes) {
        let own = nodes[index].span.start_ns.or(nodes[index].span.end_ns);
        starts[index] = own.or_else(|| nodes[index].parent.and_then(|parent| starts[parent]));
    }
    let mut sorted: Vec<usize> = (0..nodes.len()).collect();
    let key = |index: &usize| {
        let node = &nodes[*index];
        let order = if ordered { node.span.order.as_deref() } else { None };
        let start = starts[*index];
        (
            ordered && order.is_none(),
            order,
            start.unwrap_or(i64::MAX),
            if start.is_some() { node.depth } else { 0 },
            node.asked.as_ref().map_or(0, |asked| asked.position),
            if start.is_some() { node.span.end_ns.unwrap_or(i64::MAX) } else { 0 },
            node.span.origin,
        )
    };
    sorted.sort_by(|a, b| key(a).cmp(&key(b)));

    let mut places = vec![0; nodes.len()];
    for (place, index) in sorted.iter().enumerate() {
        places[*index] = place;
    }
    let mut taken: Vec<Option<Node>> = std::mem::take(nodes).into_iter().map(Some).collect();
    nodes.extend(sorted.into_iter().filter_map(|index| taken[index].take()));
    for node in nodes {
        for index in [&mut node.parent, &mut node.dedup_of].into_iter().flatten() {
            *index = places[*index];
        }
        if let Some(asked) = &mut node.asked {
            asked.call = places[asked.call];
        }
    }
}
