//! Who and what a span belongs to: rollout, attempt, task (rule 7.6), group, session, split, policy, agent (rule 7.7).

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::{Present, litellm};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::container::ReadOptions;
use crate::trace::container::metadata::split;
use crate::trace::message::text::string;
use crate::trace::object::Object;
use crate::trace::openai::fill;
use crate::trace::span::{Kind, Span, TaskIdSource};

/// Prefixes under which frameworks put the metadata of their users.
const METADATA: [&str; 5] = [
    "metadata.",
    "traceloop.association.properties.",
    "ai.telemetry.metadata.",
    "langfuse.trace.metadata.",
    "langsmith.metadata.",
];

/// Keys that state the rollout, on a span or on its resource. `fulgurite.` is our own, `agentlightning.` that of 0.2 and 0.3.
const OWN: [&str; 2] = ["fulgurite.", "agentlightning."];

/// Reads everything that tells whom the span belongs to. Attributes stay: what is metadata to us may be more to its author.
pub(super) fn read(attributes: &Attributes<'_>, span: &mut Span, present: Present, options: &ReadOptions) {
    if present.identity {
        of_attributes(attributes, span, present);
    }
    of_resource(span);
    if !options.task_id_keys.is_empty() {
        configured(attributes, span, options);
    }
}

fn of_attributes(attributes: &Attributes<'_>, span: &mut Span, present: Present) {
    for prefix in OWN {
        for (key, value) in attributes.with_prefix(prefix) {
            stated(span, &key[prefix.len()..], value);
        }
    }
    for key in ["rollout_id", "attempt_id", "group_id", "task_id", "data_id", "example_id", "instance_id"] {
        if let Some(value) = attributes.get(key) {
            stated(span, key, value);
        }
    }
    if present.litellm {
        litellm::headers(attributes, &mut span.identity);
    }
    if let Some(metadata) = attributes.text("metadata").and_then(Object::parse) {
        for (key, value) in metadata.iter().filter(|(key, _)| is_known(key)) {
            stated(span, key, &Value::Str(crate::trace::message::text::text(value)));
        }
    }
    for prefix in METADATA {
        for (key, value) in attributes.with_prefix(prefix) {
            stated(span, &key[prefix.len()..], value);
        }
    }
    if present.langfuse
        && let Some(item) = attributes.text("langfuse.experiment.item.id")
    {
        task(span, TaskIdSource::Reference, item);
    }
    of_langchain_root(attributes, span, present);
}

fn is_known(key: &str) -> bool {
    matches!(
        key,
        "rollout_id"
            | "attempt_id"
            | "task_id"
            | "data_id"
            | "example_id"
            | "instance_id"
            | "group_id"
            | "session_id"
            | "sessionId"
            | "thread_id"
            | "split"
            | "policy_version"
            | "lc_agent_name"
            | "langgraph_checkpoint_ns"
    )
}

/// Takes in one key of metadata; a key that is not known says nothing.
fn stated(span: &mut Span, key: &str, value: &Value<'_>) {
    if !is_known(key) {
        return;
    }
    let Some(text) = value.as_text() else { return };
    // Langfuse writes metadata as JSON.
    let text = string(&text).unwrap_or(Cow::Borrowed(text.as_ref()));
    if text.is_empty() {
        return;
    }
    let identity = &mut span.identity;
    let text = text.as_ref();
    match key {
        "rollout_id" => fill(&mut identity.rollout_id, Some(text.to_owned())),
        "attempt_id" => fill(&mut identity.attempt_id, Some(text.to_owned())),
        "group_id" => fill(&mut identity.group_id, Some(text.to_owned())),
        "session_id" | "sessionId" | "thread_id" => fill(&mut identity.session_id, Some(text.to_owned())),
        "split" => fill(&mut identity.split, split(text)),
        "policy_version" => fill(&mut identity.policy_version, text.parse().ok()),
        "lc_agent_name" => identity.agent_hint = Some(text.to_owned()),
        "langgraph_checkpoint_ns" => {
            // `writer:<uuid>|agent:<uuid>`: the outermost node. Tools run under a node of their own, so only calls tell.
            let node = text.split(['|', ':']).next().filter(|node| !node.is_empty());
            if span.kind == Kind::Llm {
                fill(&mut identity.agent_hint, node.map(str::to_owned));
            }
        }
        _ => task(span, TaskIdSource::Metadata, text),
    }
}

/// A task id counts for as much as the place where it was found; the first of equal ones stays.
fn task(span: &mut Span, source: TaskIdSource, id: &str) {
    let task_id = &mut span.identity.task_id;
    if !id.is_empty() && task_id.as_ref().is_none_or(|(known, _)| source < *known) {
        *task_id = Some((source, id.to_owned()));
    }
}

/// Before version 0.6 Traceloop wrote LangChain's metadata only into the input of a chain.
fn of_langchain_root(attributes: &Attributes<'_>, span: &mut Span, present: Present) {
    if !present.traceloop || span.parent_span_id.is_some() || span.identity.task_id.is_some() {
        return;
    }
    let Some(metadata) =
        attributes.text("traceloop.entity.input").and_then(Object::parse).and_then(|input| input.object("metadata"))
    else {
        return;
    };
    for (key, value) in metadata.iter().filter(|(key, _)| is_known(key)) {
        stated(span, key, &Value::Str(crate::trace::message::text::text(value)));
    }
}

/// What the resource says holds for every span of a process that says nothing itself.
fn of_resource(span: &mut Span) {
    static FINDERS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| OWN.map(Finder::new));
    let Some(resource) = span.resource_json.take() else { return };
    if FINDERS.iter().any(|finder| finder.find(resource.as_bytes()).is_some())
        && let Some(object) = Object::parse(&resource)
    {
        for (key, value) in object.iter() {
            if let Some(key) = OWN.iter().find_map(|prefix| key.strip_prefix(prefix)) {
                stated(span, key, &Value::Str(crate::trace::message::text::text(value)));
            }
        }
    }
    span.resource_json = Some(resource);
}

/// Keys that the user named: attributes, or keys of the metadata.
fn configured(attributes: &Attributes<'_>, span: &mut Span, options: &ReadOptions) {
    let metadata = attributes.text("metadata").and_then(Object::parse);
    for key in &options.task_id_keys {
        let value = attributes.get(key).and_then(|value| value.as_text()).or_else(|| {
            let key = key.strip_prefix("metadata.").unwrap_or(key);
            let of_prefix = || METADATA.iter().find_map(|prefix| attributes.get(&format!("{prefix}{key}"))?.as_text());
            metadata.as_ref().and_then(|metadata| metadata.text(key)).or_else(of_prefix)
        });
        if let Some(value) = value {
            let value = string(&value).unwrap_or(Cow::Borrowed(value.as_ref()));
            return task(span, TaskIdSource::Configured, &value);
        }
    }
}
