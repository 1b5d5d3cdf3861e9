//! Verifiers and prime-rl, first generation: `results.jsonl`, one rollout a line.
//!
//! ```text
//! {"example_id", "prompt": [message], "completion": [message], "answer", "info", "reward": 1.0, "metrics": {name: number},
//!  "is_completed", "is_truncated", "stop_condition", "error", "tool_defs",
//!  "trajectory": [{"prompt", "completion", "tokens": {"prompt_ids", "completion_ids", "completion_logprobs"}, "reward"}]}
//! ```
//!
//! Rows with one `example_id` are a group. With `trajectory` each step is a call with its own prompt and tokens; without it the answers in
//! `completion` are, with all that stands before each. Sampling
//! parameters and times are not recorded, models and finish reasons only in the responses of a trajectory, and tool statuses are texts.

use super::dialogue::{Dialogue, message};
use super::metadata::identify;
use super::record::{parse, reward_value, take_logprobs, take_reward, take_token_ids};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Role, read_messages};
use crate::trace::openai::{push_tools, read_response};
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, Reward, RolloutRecord, Span};

/// Whether a record is a row of `results.jsonl`.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.has_all(&["example_id", "prompt", "completion"])
}

/// Reads one row.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let mut identity =
        Identity { group_id: record.get("example_id").and_then(Value::as_text).map(Into::into), ..Identity::default() };
    let outer = Attributes::new(record.iter().map(|(key, value)| (key.to_owned().into(), value.clone())).collect());
    identify(&mut identity, &outer, options);
    identify(&mut identity, &Attributes::of_object(record.get("info")), options);
    let offered = tools(&mut record);
    let mut dialogue = Dialogue::new(Span {
        origin,
        format: Format::Verifiers,
        span_id: format!("{}.{}.", origin.line, origin.position),
        order: Some(format!("{:012}.", origin.line)),
        kind_evidence: Some("completion".to_owned()),
        identity,
        ..Span::default()
    });
    let trajectory = record.take("trajectory");
    let steps = trajectory.as_ref().map(Value::elements).unwrap_or_default();
    if steps.is_empty() {
        for said in messages(record.get("prompt"), Role::User, "prompt")? {
            dialogue.hear(said);
        }
        for said in messages(record.get("completion"), Role::Assistant, "completion")? {
            match said.role {
                Role::Assistant => {
                    dialogue.answer(Choice { message: said, ..Choice::default() }, offered.clone())?;
                }
                Role::Tool => {
                    dialogue.result(said);
                }
                _ => dialogue.hear(said),
            }
        }
    }
    for step in steps {
        let step = Attributes::from_json(step).map_err(|source| Reject::Shape { container: "trajectory", source })?;
        read_step(step, &offered, &mut dialogue, sink)?;
    }
    // The conversation stands in the calls.
    if dialogue.calls().next().is_some() {
        record.take("prompt");
        record.take("completion");
    }
    about(record, dialogue, origin, sink);
    Ok(())
}

fn tools(record: &mut Attributes<'_>) -> Llm {
    let definitions = record.take("tool_defs");
    let mut tools = Vec::new();
    if let Some(definitions) = definitions.as_ref().and_then(Value::as_text) {
        push_tools(&definitions, &mut tools);
    }
    Llm { tools, tools_known: definitions.is_some(), ..Llm::default() }
}

fn messages(
    value: Option<&Value<'_>>,
    role: Role,
    container: &'static str,
) -> Result<Vec<crate::trace::message::Message>, Reject> {
    match value {
        Some(Value::Json(list)) => {
            let mut read =
                crate::trace::message::read_stated(list, role).map_err(|source| Reject::Shape { container, source })?;
            Ok(read.drain(..).map(|stated| stated.message).collect())
        }
        // Completion models have one text.
        Some(text) => Ok(vec![message(role, Some(text))]),
        None => Ok(Vec::new()),
    }
}

/// One call: what it was told stands in its prompt.
fn read_step(mut step: Attributes<'_>, offered: &Llm, dialogue: &mut Dialogue, sink: &mut Sink) -> Result<(), Reject> {
    let prompt = step.take("prompt");
    let completion = step.take("completion");
    let said = messages(completion.as_ref(), Role::Assistant, "trajectory.completion")?;
    let Some(said) = said.into_iter().find(|said| said.role == Role::Assistant) else { return Ok(()) };
    let prompt = prompt.as_ref().and_then(Value::as_text).and_then(|prompt| read_messages(&prompt).ok()).unwrap_or_default();
    let span = dialogue.answer(Choice { message: said, ..Choice::default() }, offered.clone())?;
    let origin = span.origin;
    let reward = step.get("reward").and_then(reward_value);
    span.rewards.extend(reward.map(|value| Reward { name: "step".to_owned(), value: Some(value), ..Reward::default() }));
    let tokens = step.take_object("tokens");
    let mut tokens = Attributes::of_object(tokens.as_ref());
    if let Some(llm) = span.llm.as_deref_mut() {
        llm.input = prompt;
        llm.prompt_token_ids = take_token_ids(&mut tokens, "prompt_ids", origin, sink);
        let ids = take_token_ids(&mut tokens, "completion_ids", origin, sink);
        llm.choices[0].logprobs = take_logprobs(&mut tokens, "completion_logprobs", ids.as_deref(), origin, sink);
        llm.choices[0].token_ids = ids;
        // The response repeats the completion, and says who gave it and why it ended.
        if let Some(response) = step.take_object("response").and_then(Value::into_text) {
            read_response(&response, llm);
        }
        llm.input_tokens = llm.input_tokens.or_else(|| length(&llm.prompt_token_ids));
        llm.output_tokens = llm.output_tokens.or_else(|| length(&llm.choices[0].token_ids));
    }
    step.put_rest("tokens", &tokens);
    span.attributes_json = step.to_json();
    Ok(())
}

fn length(ids: &Option<Vec<i32>>) -> Option<i64> {
    ids.as_ref().and_then(|ids| i64::try_from(ids.len()).ok())
}

fn about(mut record: Attributes<'_>, mut dialogue: Dialogue, origin: Origin, sink: &mut Sink) {
    let mut rewards: Vec<Reward> = Vec::new();
    let reward = |name: &str, value, primary| Reward {
        name: name.to_owned(),
        value: Some(value),
        primary,
        is_final: true,
        source: Some("grader".to_owned()),
        ..Reward::default()
    };
    rewards.extend(take_reward(&mut record, "reward", origin, sink).map(|value| reward("reward", value, true)));
    let metrics = Attributes::of_object(record.get("metrics"));
    rewards.extend(metrics.iter().filter_map(|(name, value)| Some(reward(name, reward_value(value)?, false))));
    drop(metrics);
    if !rewards.is_empty() {
        let mut span = dialogue.place(Kind::Reward);
        span.name = "reward".to_owned();
        span.kind_evidence = Some("reward".to_owned());
        span.rewards = rewards;
        dialogue.push(span);
    }
    let error = record.get("error").and_then(Value::as_text).map(Into::into);
    let completed = record.get("is_completed").and_then(Value::as_bool);
    let mut span = dialogue.place(Kind::Rollout);
    span.name = "rollout".to_owned();
    span.order = None;
    span.rollout = Some(Box::new(RolloutRecord {
        task_input: record.get("info").and_then(Value::as_text).map(Into::into),
        status: if error.is_some() { Some("failed") } else { completed.filter(|done| *done).map(|_| "succeeded") }
            .map(str::to_owned),
        status_message: error,
    }));
    span.attributes_json = record.to_json();
    sink.spans.push(span);
    sink.spans.extend(dialogue.into_spans());
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    #[test]
    fn rows_with_and_without_a_trajectory() {
        let row = |trajectory: &str| {
            let sink = sink_of(
                &format!(
                    r#"{{"example_id":3,"prompt":[{{"role":"user","content":"q"}}],"completion":[{{"role":"assistant","content":"a"}},
                        {{"role":"user","content":"again"}},{{"role":"assistant","content":"b"}}],"reward":0.5,"metrics":{{"exact":1.0}},
                        "is_completed":true,"error":null{trajectory}}}"#
                ),
                &[],
            );
            assert_eq!(codes(&sink), [""; 0]);
            sink.spans
        };
        let spans = row("");
        let prompts = |spans: &[Span]| spans.iter().filter_map(|span| Some(span.llm.as_ref()?.input.len())).collect::<Vec<_>>();
        assert_eq!(prompts(&spans), [1, 3]);
        assert_eq!(spans[0].identity.group_id.as_deref(), Some("3"));
        let rewards: Vec<_> =
            spans.iter().flat_map(|span| &span.rewards).map(|reward| (reward.name.as_str(), reward.primary)).collect();
        assert_eq!(rewards, [("reward", true), ("exact", false)]);
        let spans = row(
            r#","trajectory":[{"prompt":[{"role":"user","content":"q"},{"role":"user","content":"r"}],"completion":[{"role":"assistant","content":"a"}],
                "tokens":{"prompt_ids":[1,2],"completion_ids":[3],"completion_logprobs":[-0.5],"prompt_mask":[0,0]},"reward":0.25,"advantage":null}]"#,
        );
        assert_eq!(prompts(&spans), [2]);
        let llm = spans.iter().find_map(|span| span.llm.as_deref()).unwrap();
        assert_eq!((llm.prompt_token_ids.as_deref(), llm.choices[0].logprobs.as_deref()), (Some(&[1, 2][..]), Some(&[-0.5][..])));
    }

    #[test]
    fn rewards_that_are_no_numbers() {
        let sink = sink_of(r#"{"example_id":"x","prompt":"q","completion":"a","reward":"NaN"}"#, &[]);
        assert_eq!((codes(&sink), sink.spans.len()), (vec!["bad_value"], 2));
    }
}
