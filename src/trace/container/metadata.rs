//! What people put into a record's metadata: the ids of the task, the group and the session, and the split.

use super::ReadOptions;
use crate::trace::attributes::{Attributes, Value};
use crate::trace::span::{Identity, TaskIdSource};

/// Keys that hold the id of the task, best first (rule 7.6).
const TASK_ID_KEYS: [&str; 4] = ["task_id", "data_id", "example_id", "instance_id"];

/// Keys that hold the id of a conversation, which never makes a rollout.
const SESSION_ID_KEYS: [&str; 3] = ["session_id", "thread_id", "conversation_id"];

/// Fills what `identity` does not say yet from metadata. Nothing is taken out of it.
pub fn identify(identity: &mut Identity, metadata: &Attributes<'_>, options: &ReadOptions) {
    if let Some(id) = first_text(metadata, options.task_id_keys.iter().map(String::as_str)) {
        identity.task_id = Some((TaskIdSource::Configured, id));
    } else if identity.task_id.is_none() {
        identity.task_id = task_id(metadata).map(|id| (TaskIdSource::Metadata, id));
    }
    if identity.session_id.is_none() {
        identity.session_id = first_text(metadata, SESSION_ID_KEYS);
    }
    for (known, key) in
        [(&mut identity.rollout_id, "rollout_id"), (&mut identity.attempt_id, "attempt_id"), (&mut identity.group_id, "group_id")]
    {
        if known.is_none() {
            *known = first_text(metadata, [key]);
        }
    }
    if identity.policy_version.is_none() {
        identity.policy_version = metadata.get("policy_version").and_then(Value::as_int);
    }
    if identity.split.is_none() {
        identity.split = metadata.text("split").and_then(split);
    }
}

/// The id of the task by the keys that people use.
pub fn task_id(metadata: &Attributes<'_>) -> Option<String> {
    first_text(metadata, TASK_ID_KEYS)
}

/// The first of these keys with a value, as text.
pub fn first_text<'k>(attributes: &Attributes<'_>, keys: impl IntoIterator<Item = &'k str>) -> Option<String> {
    keys.into_iter().filter_map(|key| attributes.get(key)).filter(|value| !matches!(value, Value::Json(_))).find_map(|value| {
        let text = value.as_text()?;
        (!text.is_empty()).then(|| text.into_owned())
    })
}

/// The name of a split as the tables have it; `None` for other words.
pub fn split(name: &str) -> Option<String> {
    let split = match name {
        "train" | "training" => "train",
        "val" | "valid" | "validation" | "dev" | "eval" => "val",
        "test" => "test",
        _ => return None,
    };
    Some(split.to_owned())
}
