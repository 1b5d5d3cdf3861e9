//! Which ids may come next: a compiled grammar, and how far one response has come in it.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

/// What a response has to be. Compiled once, for any number of requests.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    /// Before the first id; never moved on itself.
    start: Matcher,
    end_ids: Vec<u32>,
}

/// How far one response has come.
#[derive(Clone)]
pub struct Progress {
    matcher: Matcher,
    grammar: Grammar,
}

impl Grammar {
    /// * `start`: before the first id.
    /// * `end_ids`: those that its vocabulary has as ends; each may come wherever the grammar may end.
    pub fn new(start: Matcher, end_ids: Vec<u32>) -> Grammar {
        Grammar(Arc::new(Compiled { start, end_ids }))
    }

    /// A response that begins. What it learns of the grammar on its way it keeps for itself, so that no limit of work that one response
    /// meets depends on the others.
    pub fn begin(&self) -> Progress {
        Progress { matcher: self.0.start.deep_clone(), grammar: self.clone() }
    }
}

impl Progress {
    /// The ids that may come next; where nothing more may, those that end a response.
    ///
    /// Fails where the grammar is too complex at this place.
    pub fn allowed(&mut self) -> Result<SimpleVob, String> {
        self.matcher.compute_mask_or_eos().map_err(|error| format!("the grammar of the answer cannot go on: {error:#}"))
    }

    /// Goes on with an id that was allowed.
    pub fn accept(&mut self, id: u32) -> Result<(), String> {
        if self.grammar.0.end_ids.contains(&id) {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|error| format!("the grammar of the answer does not allow the id {id}: {error:#}"))
    }
}

/// Two grammars are equal where they are one.
impl PartialEq for Grammar {
    fn eq(&self, other: &Grammar) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Grammar")
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Progress")
    }
}
