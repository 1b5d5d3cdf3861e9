//! What needs trees, links, lists or JSON, found over all the spans of a rollout at once: from spans to rows of the table `spans`.
//!
//! Two passes. The first shows every span to a [`Joiner`], which finds the rollouts. The second hands the spans of complete rollouts,
//! in any order, to [`resolve`].

mod join;
mod row;

pub use join::{Components, Joiner};
pub use row::{Evidence, Row, ToolStatus};

use super::span::{Origin, Span};

/// Settings of resolving.
#[derive(Debug, Clone, Default)]
pub struct ResolveOptions {}

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

/// Rows of the spans of complete rollouts: all spans of the same `components.key`, of one or more keys.
///
/// Pure: the result depends on the set of spans, not on their order. Sorted by rollout_id, seq.
///
/// * `components`: from a `Joiner` that saw every span of the input.
/// * `files`: paths or URLs as given to ingest, by `Origin::file`.
pub fn resolve(
    _spans: Vec<Span>,
    _components: &Components,
    _files: &[String],
    _options: &ResolveOptions,
) -> (Vec<Row>, Vec<(Origin, Unresolved)>) {
    (Vec::new(), Vec::new())
}
