//! What needs trees, links, lists or JSON, found over all the spans of a rollout at once: from spans to rows of the table `spans`.
//!
//! Two passes. The first shows every span to a [`Joiner`], which finds the rollouts. The second hands the spans of complete rollouts,
//! in any order, to [`resolve`], which for each rollout:
//!
//! ```text
//! merge   records of one span, log events into their calls      nested  what was recorded twice
//! served  calls that our server and their clients recorded      tools   who asked for a tool, what came back
//! tree    parents, depth, total order                           rows    the columns, with llm and status
//! agent   who acted
//! ```

mod agent;
mod join;
mod llm;
mod merge;
mod nested;
mod row;
mod rows;
mod served;
mod status;
#[cfg(test)]
mod tests;
mod tools;
mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use join::{Components, Joiner, RolloutSource, have_one_locator, locator};
pub use row::{Evidence, Row, ToolStatus};

use super::container::{langsmith, session};
use super::span::{Origin, Span};

/// Something that a span states and that its row cannot hold: for the table `rejects`. The rest of the span has its row.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    #[error("span `{span_id}` ends {early_ns} ns before it starts: its end is left out")]
    NegativeDuration { span_id: String, early_ns: i64 },
}

impl Unresolved {
    /// The word for the column `rejects.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Unresolved::NegativeDuration { .. } => "bad_value",
        }
    }
}

/// One span of a rollout, with what was found out about it. Indices are places in the rollout's list of nodes.
#[derive(Debug)]
struct Node {
    span: Span,
    /// Unique in the rollout.
    id: String,
    parent: Option<usize>,
    /// Ancestors present in the rollout.
    depth: usize,
    /// The node that is kept for the same event.
    dedup_of: Option<usize>,
    /// Agents from the outermost to the one that acted.
    agents: Arc<Vec<String>>,
    /// Tools: the request that this answers.
    asked: Option<tools::Asked>,
    /// Tools: what the next LLM call was told.
    answer: Option<tools::Answer>,
    /// LLM calls: requests that no span answers.
    unseen: Vec<tools::Unseen>,
}

impl Node {
    fn new(span: Span) -> Self {
        Self {
            id: span.span_id.clone(),
            span,
            parent: None,
            depth: 0,
            dedup_of: None,
            agents: Arc::default(),
            asked: None,
            answer: None,
            unseen: Vec::new(),
        }
    }
}

/// Rows of the spans of complete rollouts: all spans of the same `components.key`, of one or more keys.
///
/// Pure: the result depends on the set of spans, not on their order. Sorted by rollout_id, seq.
///
/// * `components`: from a `Joiner` that saw every span of the input.
/// * `files`: paths or URLs as given to ingest, by `Origin::file`.
pub fn resolve(spans: Vec<Span>, components: &Components, files: &[String]) -> (Vec<Row>, Vec<(Origin, Unresolved)>) {
    let mut rollouts: BTreeMap<Box<str>, (RolloutSource, Vec<Span>)> = BTreeMap::new();
    for span in langsmith::complete(spans) {
        let (rollout, source) = rollout_of(&span, components, files);
        rollouts.entry(rollout).or_insert_with(|| (source, Vec::new())).1.push(span);
    }
    let mut rows = Vec::new();
    let mut unresolved = Vec::new();
    for (rollout, (source, mut spans)) in rollouts {
        drop_impossible_ends(&mut spans, &mut unresolved);
        let mut nodes = merge::records(session::complete(spans));
        merge::events(&mut nodes);
        served::adopt(&mut nodes);
        tree::link(&mut nodes);
        tree::sort(&mut nodes);
        merge::requests(&mut nodes);
        nested::mark(&mut nodes);
        agent::name(&mut nodes);
        tools::connect(&mut nodes);
        tree::sort(&mut nodes);
        rows::build(&rollout, source, nodes, &mut rows);
    }
    (rows, unresolved)
}

/// The rollout that a span is a part of. A record that belongs to none that is known stands for itself, under the name of the place
/// where it was read. Looks at nothing of the span but its [`locator`].
pub fn rollout_of(span: &Span, components: &Components, files: &[String]) -> (Box<str>, RolloutSource) {
    components.rollout(span).unwrap_or_else(|| {
        let file = files.get(span.origin.file as usize).map_or("", String::as_str);
        // A session file whose beginning is missing is one run.
        let place = if session::is_of_file(span.format) { file.to_owned() } else { format!("{file}:{}", span.origin.line) };
        (place.into(), RolloutSource::Record)
    })
}

/// An end before the start says nothing about the end; the start keeps the span in its place.
fn drop_impossible_ends(spans: &mut [Span], unresolved: &mut Vec<(Origin, Unresolved)>) {
    for span in spans {
        if let (Some(start), Some(end)) = (span.start_ns, span.end_ns)
            && end < start
        {
            span.end_ns = None;
            let early_ns = start.saturating_sub(end);
            unresolved.push((span.origin, Unresolved::NegativeDuration { span_id: span.span_id.clone(), early_ns }));
        }
    }
}
