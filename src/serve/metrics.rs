//! Counts of the server, as Prometheus reads them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::splice::Prefix;

/// Counts since the server was started, and calls under way.
#[derive(Debug, Default)]
pub struct Metrics {
    pub under_way: AtomicUsize,
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
    pub refused: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub sampled_tokens: AtomicU64,
    pub spliced: AtomicU64,
    pub forked: AtomicU64,
    pub malformed_tool_calls: AtomicU64,
}

impl Metrics {
    pub fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts how a prompt continued what was said before.
    pub fn continued(&self, prefix: Prefix) {
        match prefix {
            Prefix::First => {}
            Prefix::Spliced => Metrics::add(&self.spliced, 1),
            Prefix::Fork => Metrics::add(&self.forked, 1),
        }
    }

    /// Of the prompts that hold something that this server said, the share whose ids were kept; `None` before the first.
    pub fn prefix_reuse(&self) -> Option<f64> {
        let (spliced, forked) = (self.spliced.load(Ordering::Relaxed) as f64, self.forked.load(Ordering::Relaxed) as f64);
        (spliced + forked > 0.0).then(|| spliced / (spliced + forked))
    }

    /// The text format of Prometheus.
    ///
    /// * `more`: further gauges: name, meaning, value.
    pub fn text(&self, more: &[(&str, &str, f64)]) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = String::new();
        let counters = [
            ("calls_answered", "Calls that were answered.", count(&self.answered)),
            ("calls_failed", "Calls that were answered with an error of the server.", count(&self.failed)),
            ("calls_cancelled", "Calls whose client went away.", count(&self.cancelled)),
            ("calls_refused", "Calls that were refused: wrong, too large or too many.", count(&self.refused)),
            ("prompt_tokens", "Tokens of prompts.", count(&self.prompt_tokens)),
            ("sampled_tokens", "Tokens sampled.", count(&self.sampled_tokens)),
            ("prompts_spliced", "Prompts that begin with an earlier one and what was sampled for it.", count(&self.spliced)),
            ("prompts_forked", "Prompts that hold an earlier answer whose ids could not be kept.", count(&self.forked)),
            (
                "malformed_tool_calls",
                "Answers that began a tool call and did not end it well.",
                count(&self.malformed_tool_calls),
            ),
        ];
        for (name, help, value) in counters {
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "# HELP fulgurite_{name}_total {help}\n# TYPE fulgurite_{name}_total counter\nfulgurite_{name}_total {value}"
            );
        }
        let under_way = self.under_way.load(Ordering::Relaxed) as f64;
        let reuse = self.prefix_reuse().map(|share| ("prefix_reuse", "Share of continued prompts whose ids were kept.", share));
        for (name, help, value) in
            [("calls_under_way", "Calls under way.", under_way)].into_iter().chain(reuse).chain(more.iter().copied())
        {
            let _ = writeln!(text, "# HELP fulgurite_{name} {help}\n# TYPE fulgurite_{name} gauge\nfulgurite_{name} {value}");
        }
        text
    }
}
