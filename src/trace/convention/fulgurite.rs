//! Our own attributes: what the server writes beside the GenAI ones, and what ties any span to its rollout.
//!
//! On the resource, or on a span, whoever wrote it: `fulgurite.rollout_id`, `.attempt_id`, `.task_id`, `.group_id`, `.split` (train, val or
//! test) and `.policy_version`, read by `identity`; `.sample`, the number of the rollout in its group, stays an attribute.
//!
//! A *call* is a GenAI span with [`call`] attributes. Lists are JSON as text, since OTLP's own arrays name the type of every element; those
//! of a response are lists of one list for each choice. A *reward* is a span with [`reward`] attributes. A *rollout record*, one for each
//! attempt, has [`rollout`] attributes.

use serde::de::DeserializeOwned;

use crate::trace::attributes::Attributes;
use crate::trace::container::Sink;
use crate::trace::message::{Message, Role};
use crate::trace::openai::fill;
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Kind, Llm, Reward, RewardTarget, RolloutRecord, Span};

/// Instrumentation scope of the spans that our server writes.
pub const SCOPE: &str = "fulgurite";

pub const ROLLOUT_ID: &str = "fulgurite.rollout_id";
pub const ATTEMPT_ID: &str = "fulgurite.attempt_id";
pub const TASK_ID: &str = "fulgurite.task_id";
pub const GROUP_ID: &str = "fulgurite.group_id";
pub const SPLIT: &str = "fulgurite.split";
pub const POLICY_VERSION: &str = "fulgurite.policy_version";
pub const SAMPLE: &str = "fulgurite.sample";

/// Attributes of an LLM call.
pub mod call {
    pub const PREFIX: &str = "fulgurite.call.";
    /// `[id, ...]`: what the policy saw.
    pub const PROMPT_TOKEN_IDS: &str = "fulgurite.call.prompt_token_ids";
    /// `[[id, ...], ...]`: what it sampled, the token that ended the turn included.
    pub const RESPONSE_TOKEN_IDS: &str = "fulgurite.call.response_token_ids";
    /// `[[log-prob, ...], ...]` under temperature alone, natural log.
    pub const BEHAVIOUR_LOGPROBS: &str = "fulgurite.call.behaviour_logprobs";
    /// The same after every processor.
    pub const SAMPLED_LOGPROBS: &str = "fulgurite.call.sampled_logprobs";
    /// The status that the client got, or would have got.
    pub const HTTP_STATUS: &str = "fulgurite.call.http_status";
    /// The client went away before the end, and asked the same again.
    pub const ABANDONED: &str = "fulgurite.call.abandoned";
    /// The client went away before the end.
    pub const CANCELLED: &str = "fulgurite.call.cancelled";
    /// `[["text", ...], ...]`: texts that began like a tool call and could not be read as one. They stay text.
    pub const MALFORMED_TOOL_CALLS: &str = "fulgurite.call.malformed_tool_calls";
    /// `first`, `spliced` (begins with an earlier prompt and what was sampled for it) or `fork` (an earlier answer stands in it otherwise).
    pub const PREFIX_REUSE: &str = "fulgurite.call.prefix_reuse";
}

/// Attributes of a reward.
pub mod reward {
    pub const PREFIX: &str = "fulgurite.reward.";
    pub const NAME: &str = "fulgurite.reward.name";
    pub const VALUE: &str = "fulgurite.reward.value";
    pub const LABEL: &str = "fulgurite.reward.label";
    /// agent, grader, human or fallback.
    pub const SOURCE: &str = "fulgurite.reward.source";
    pub const COMMENT: &str = "fulgurite.reward.comment";
    pub const PRIMARY: &str = "fulgurite.reward.primary";
    /// About the rollout as a whole.
    pub const FINAL: &str = "fulgurite.reward.final";
    /// What it is about: all that are set must match.
    pub const RESPONSE_ID: &str = "fulgurite.reward.response_id";
    pub const TOOL_CALL_ID: &str = "fulgurite.reward.tool_call_id";
    pub const SPAN_ID: &str = "fulgurite.reward.span_id";
}

/// Attributes of the record about a rollout.
pub mod rollout {
    pub const PREFIX: &str = "fulgurite.rollout.";
    /// succeeded, failed, timeout, cancelled or running.
    pub const STATUS: &str = "fulgurite.rollout.status";
    /// The task as JSON.
    pub const TASK: &str = "fulgurite.rollout.task";
    /// What went wrong, for people.
    pub const MESSAGE: &str = "fulgurite.rollout.message";
    /// agent, timeout, infrastructure or reward_missing, as the runner saw it.
    pub const FAILURE_CLASS: &str = "fulgurite.rollout.failure_class";
}

/// Rewards and records are known by their attributes; a call is a GenAI span.
pub(super) fn kind(attributes: &Attributes<'_>) -> Option<(Kind, &'static str)> {
    if attributes.contains(rollout::STATUS) {
        return Some((Kind::Rollout, rollout::STATUS));
    }
    attributes.contains(reward::NAME).then_some((Kind::Reward, reward::NAME))
}

/// What GenAI has no attribute for; reads after the messages.
pub(super) fn llm(attributes: &mut Attributes<'_>, llm: &mut Llm) {
    fill(&mut llm.prompt_token_ids, take_json(attributes, call::PROMPT_TOKEN_IDS));
    let ids: Vec<Vec<i32>> = take_json(attributes, call::RESPONSE_TOKEN_IDS).unwrap_or_default();
    let behaviour: Vec<Vec<f32>> = take_json(attributes, call::BEHAVIOUR_LOGPROBS).unwrap_or_default();
    let sampled: Vec<Vec<f32>> = take_json(attributes, call::SAMPLED_LOGPROBS).unwrap_or_default();
    let malformed: Vec<Vec<String>> = take_json(attributes, call::MALFORMED_TOOL_CALLS).unwrap_or_default();
    while llm.choices.len() < ids.len() {
        llm.choices.push(Choice { message: Message { role: Role::Assistant, ..Message::default() }, ..Choice::default() });
    }
    for (index, choice) in llm.choices.iter_mut().enumerate() {
        fill(&mut choice.token_ids, ids.get(index).cloned());
        fill(&mut choice.logprobs, behaviour.get(index).cloned());
        fill(&mut choice.sampled_logprobs, sampled.get(index).cloned());
        choice.malformed.extend(malformed.get(index).cloned().unwrap_or_default());
    }
    if let Some(status) = attributes.take_int(call::HTTP_STATUS) {
        fill(&mut llm.http_status, i32::try_from(status).ok());
    }
    attributes.fill_bool(call::ABANDONED, &mut llm.abandoned);
}

/// Rewards and the record about the rollout.
pub(super) fn common(attributes: &mut Attributes<'_>, span: &mut Span, sink: &mut Sink) {
    match span.kind {
        Kind::Reward if attributes.contains(reward::NAME) => stated_reward(attributes, span, sink),
        Kind::Rollout => {
            let record = RolloutRecord {
                task_input: attributes.take_text(rollout::TASK),
                status: attributes.take_text(rollout::STATUS),
                status_message: attributes.take_text(rollout::MESSAGE),
            };
            span.rollout = Some(Box::new(record));
        }
        _ => {}
    }
}

/// A reward that is no finite number is set aside: no statistic survives one.
fn stated_reward(attributes: &mut Attributes<'_>, span: &mut Span, sink: &mut Sink) {
    let name = attributes.take_text(reward::NAME).unwrap_or_default();
    let value = attributes.get(reward::VALUE).map(|value| (value.as_double(), value.as_text().unwrap_or_default().into_owned()));
    let value = match value {
        Some((Some(value), _)) if value.is_finite() => Some(value),
        Some((_, text)) => {
            let reject = Reject::bad_value(format!("reward `{name}`"), &text, "a finite number");
            return sink.reject(span.origin, reject, format!("span `{}`, reward `{name}`: {text}", span.span_id).as_bytes());
        }
        None => None,
    };
    attributes.take(reward::VALUE);
    let target = RewardTarget {
        trace_id: None,
        span_id: attributes.take_text(reward::SPAN_ID),
        response_id: attributes.take_text(reward::RESPONSE_ID),
        tool_call_id: attributes.take_text(reward::TOOL_CALL_ID),
    };
    span.rewards.push(Reward {
        name,
        value,
        label: attributes.take_text(reward::LABEL),
        source: attributes.take_text(reward::SOURCE),
        comment: attributes.take_text(reward::COMMENT),
        primary: attributes.take_bool(reward::PRIMARY).unwrap_or(false),
        is_final: attributes.take_bool(reward::FINAL).unwrap_or(false),
        aggregate: false,
        target: (target != RewardTarget::default()).then_some(target),
    });
}

/// A value that is JSON, as text or as OTLP's own lists; one that is something else stays.
fn take_json<T: DeserializeOwned>(attributes: &mut Attributes<'_>, key: &str) -> Option<T> {
    let read = serde_json::from_str(&attributes.get(key)?.as_text()?).ok()?;
    attributes.take(key);
    Some(read)
}
