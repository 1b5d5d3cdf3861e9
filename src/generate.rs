//! Inference: requests of token ids in, sampled ids with their log-probabilities out, as they come.
//!
//! One thread owns the model and its KV cache. Requests join and leave between two steps; what they have in common (the prompt of a
//! group's samples, the earlier turns of a rollout) is computed once and kept while there is room. Nothing here knows text, messages
//! or HTTP: those are `text` and `serve`.

use tokio::sync::mpsc::UnboundedReceiver;

mod attend;
mod blocks;
pub mod config;
mod engine;
mod forward;
pub mod grammar;
pub mod key;
mod plan;
mod product;
pub mod sample;
mod schedule;
mod worker;

pub use config::GenerateConfig;
pub use engine::{Completion, Engine, complete};
pub use grammar::Grammar;
pub use key::Key;
pub use sample::Sampling;

/// One sequence to continue.
#[derive(Debug, Clone)]
pub struct Request {
    /// Ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    /// What the random numbers of this request hang on, together with the prompt's ids.
    pub key: Key,
}

/// What comes back for a request, in this order: `Started` (again after `Started` where its place was taken for a while), `Token` for
/// every sampled id, the stop id included, and at the end one `Finished` or one `Failed`. A channel that closes without either means
/// that the engine was shut down.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It has a place. `cached_tokens` of the prompt were in the cache and are not computed again.
    Started {
        cached_tokens: usize,
    },
    Token {
        id: u32,
        /// Log-probability of `id` under the policy at the request's temperature alone, which is what the trainer computes again. Where
        /// the temperature is 0 (greedy), at temperature 1.
        behaviour_logprob: f32,
        /// Log-probability of `id` in the distribution it was drawn from: after every processor, renormalised. 0 where greedy.
        sampled_logprob: f32,
        /// The `Sampling::logprobs` most likely ids in the distribution of `behaviour_logprob`, most likely first.
        top: Vec<(u32, f32)>,
    },
    Finished(Finish),
    /// The engine could not go on with this request; the text says why. The request itself was right.
    Failed(String),
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// One of `Sampling::stop_ids` was sampled; it is the last `Token`.
    Stop,
    /// `Sampling::max_tokens`, the model's context or the whole cache is full.
    Length,
    /// Its receiver is gone, or the engine was shut down before its end.
    Cancelled,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the prompt is empty")]
    Empty,
    #[error("the prompt has {prompt} tokens, but at most {limit} fit before a first new one")]
    TooLong { prompt: usize, limit: usize },
    #[error("the prompt has the id {id}, but the vocabulary ends at {vocabulary}")]
    UnknownId { id: u32, vocabulary: usize },
    #[error("{0}")]
    Sampling(String),
    #[error("{limit} requests are waiting already; try again later")]
    QueueFull { limit: usize },
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// Counts since the engine was started, and what it holds now.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Requests that have a place.
    pub running: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Blocks of the KV cache that running requests hold.
    pub blocks_used: usize,
    /// Blocks that nobody holds and whose content may be wanted again.
    pub blocks_cached: usize,
    pub blocks_total: usize,
    /// Tokens in a block.
    pub block_tokens: usize,
    pub finished: u64,
    pub cancelled: u64,
    pub failed: u64,
    /// Times that a running request had to give back its blocks and wait.
    pub preempted: u64,
    /// Tokens of the prompts of all requests that started.
    pub prompt_tokens: u64,
    /// How many of them came out of the cache.
    pub cached_tokens: u64,
    /// Tokens sampled.
    pub new_tokens: u64,
    /// Passes through the model.
    pub steps: u64,
    /// Seconds in them.
    pub model_seconds: f64,
    /// Seconds in sampling and bookkeeping.
    pub other_seconds: f64,
}

/// Where the events of one request arrive. Dropping it frees the request's place.
pub type Events = UnboundedReceiver<Event>;

#[cfg(test)]
mod tests;
