//! What a rollout is to the server: whose calls these are, what its random numbers hang on, and how it is sampled.

use serde_json::{Value, json};

use super::app::Api;

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
    /// Likewise.
    pub top_p: Option<f64>,
    /// Longest response of a call, in tokens, where the agent asks for a longer one or for none.
    pub max_tokens: Option<u64>,
    /// Calls that the agent may make; more are refused.
    pub max_calls: Option<u64>,
}

impl Rollout {
    /// Puts what the rollout is sampled with in the place of what its agent asked for.
    ///
    /// * `body`: of a call, a JSON object.
    pub fn impose(&self, api: Api, body: &mut Value) {
        for (name, value) in [("temperature", self.temperature), ("top_p", self.top_p)] {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        let Some(most) = self.max_tokens else { return };
        let names: &[&str] = match api {
            Api::Chat => &["max_completion_tokens", "max_tokens"],
            Api::Completions => &["max_tokens"],
            Api::Responses => &["max_output_tokens"],
        };
        // What is no number stays, and is refused where it is read.
        let asked: Vec<&str> = names.iter().copied().filter(|name| !body[*name].is_null()).collect();
        for name in &asked {
            if body[*name].as_u64().is_some_and(|tokens| tokens > most) {
                body[*name] = json!(most);
            }
        }
        if asked.is_empty() {
            body[names[0]] = json!(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_sampled_as_it_was_begun_whatever_its_agent_asks_for() {
        let rollout = Rollout { temperature: Some(1.0), top_p: Some(0.9), max_tokens: Some(8), ..Rollout::default() };
        let sampled = json!({ "temperature": 1.0, "top_p": 0.9 });
        for (api, asked, expected) in [
            (Api::Chat, json!({}), json!({ "max_completion_tokens": 8 })),
            (Api::Chat, json!({ "max_tokens": 64, "temperature": 0 }), json!({ "max_tokens": 8 })),
            (
                Api::Chat,
                json!({ "max_tokens": null, "max_completion_tokens": 4 }),
                json!({ "max_tokens": null, "max_completion_tokens": 4 }),
            ),
            (Api::Chat, json!({ "max_tokens": "many" }), json!({ "max_tokens": "many" })),
            (Api::Completions, json!({ "max_tokens": 9 }), json!({ "max_tokens": 8 })),
            (Api::Responses, json!({ "top_p": 0.5 }), json!({ "max_output_tokens": 8 })),
        ] {
            let mut body = asked.clone();
            rollout.impose(api, &mut body);
            let mut whole = expected;
            whole.as_object_mut().unwrap().extend(sampled.as_object().unwrap().clone());
            assert_eq!(body, whole, "{asked}");
        }
        let mut body = json!({ "temperature": 0.5 });
        Rollout::default().impose(Api::Chat, &mut body);
        assert_eq!(body, json!({ "temperature": 0.5 }));
    }
}
