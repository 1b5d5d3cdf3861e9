//! What a rollout is to the server: whose calls these are, and what its random numbers hang on.

use serde_json::Value;

/// One attempt at one sample of a task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollout {
    /// Unique in the batch, and plain enough for a file's name: letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// From 0; each attempt is recorded apart.
    pub attempt: u32,
    pub task_id: Option<String>,
    /// Samples that are compared with each other; the task where `None`.
    pub group_id: Option<String>,
    /// train, val or test.
    pub split: String,
    /// Number of the sample in its group, from 0.
    pub sample: u64,
    pub policy_version: Option<i64>,
    /// The task itself, for the record.
    pub task: Option<Value>,
    /// The run's seed and the loop's iteration, for the random numbers.
    pub seed: u64,
    pub iteration: u64,
    /// Takes the place of what the agent asks for, so that what is trained on is sampled as training wants it.
    pub temperature: Option<f64>,
    /// Calls that the agent may make; more are refused.
    pub max_calls: Option<u64>,
}
