//! Chat JSON lines: OpenAI's format for fine-tuning, one conversation a line, and its preference pairs.
//!
//! ```json
//! {"messages": [{"role": "system", "content": "You are a calculator."},
//!               {"role": "user", "content": "What is 20 / 4?"},
//!               {"role": "assistant", "name": "solver", "weight": 1, "tool_calls": [{"id": "c1", "type": "function",
//!                "function": {"name": "calculator", "arguments": "{\"expression\": \"20 / 4\"}"}}]},
//!               {"role": "tool", "tool_call_id": "c1", "content": "5"},
//!               {"role": "assistant", "content": "5", "token_ids": [20, 2], "logprobs": [-0.1, -0.2]}],
//!  "tools": [{"type": "function", "function": {"name": "calculator", "parameters": {}}}],
//!  "reward": 1.0, "task_id": "calc-001", "group": "calc-001", "split": "train"}
//! ```
//!
//! Every assistant message is an LLM call whose prompt is all that stands before it, except where its `weight` is 0: then it is history
//! and not an answer to learn from. A conversation is one rollout, except that lines with the same `rollout_id` are one together (as
//! where each agent of a run has a line of its own). Tool messages are the results that the next call was told.
//!
//! Beside `messages`, `tools` and `parallel_tool_calls`, which are OpenAI's, these optional keys are understood:
//!
//! * of the record: `reward` (a number, or an object of numbers by name), `group` or `group_id`, `task_id`, `rollout_id`,
//!   `attempt_id`, `split`, `policy_version`, `model` (that answered), `temperature`, `metadata` (an object that may hold the same ids), and
//!   `prompt_token_ids`, `response_token_ids`, `logprobs`, `finish_reason` of the last call;
//! * of an assistant message: `name` (the agent), `prompt_token_ids`, `token_ids` or `response_token_ids`, `logprobs`,
//!   `finish_reason`, `reward` (of this call), `reasoning_content`;
//! * of a tool message: `name`, `is_error`.
//!
//! Any other key stays among the attributes of the rollout's record. A preference pair, `{input, preferred_output,
//! non_preferred_output}`, is two rollouts of one group, with the reward `preference` 1 and 0.

use super::metadata::{identify, split};
use super::record::{self, parse, take_id, take_logprobs, take_reward, take_token_ids};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value};
use crate::trace::message::{Message, Role, read_stated};
use crate::trace::openai::push_tools;
use crate::trace::reject::Reject;
use crate::trace::span::{
    Choice, Format, Identity, Kind, Llm, Origin, Reward, RolloutRecord, Span, TaskIdSource, Tool, ToolOffer,
};

/// Each call holds its whole prompt, so that a conversation takes the square of its length. What the prompts of one may have together.
const MAX_PROMPTS_BYTES: usize = 256 << 20;

/// Whether a record is a conversation or a preference pair.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.begins("messages", b'[') || keys.has_all(&["input", "preferred_output"])
}

/// Reads one record.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let identity = identity(&mut record, options);
    if let Some(messages) = record.take("messages") {
        let conversation = Conversation { messages: messages.elements(), history: 0, trace_id: None, identity };
        return read_conversation(conversation, record, origin, sink);
    }
    read_pair(record, text, identity, origin, sink)
}

/// A preference pair: two rollouts that went on from one prompt.
fn read_pair(mut record: Attributes<'_>, text: &str, identity: Identity, origin: Origin, sink: &mut Sink) -> Result<(), Reject> {
    let prompt_object = record.take_object("input").ok_or(Reject::MissingField { field: "input" })?;
    let mut prompt = Attributes::of_object(Some(&prompt_object));
    let messages = prompt.take("messages").ok_or(Reject::MissingField { field: "input.messages" })?;
    let outputs = [
        ("preferred", 1.0, record.take("preferred_output").ok_or(Reject::MissingField { field: "preferred_output" })?),
        ("non_preferred", 0.0, record.take("non_preferred_output").unwrap_or(Value::Null)),
    ];
    prompt.fill_from(&record);
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let pair = format!("{}.{}.{}", &hash[..16], origin.line, origin.position);
    for (name, preference, output) in &outputs {
        let history = messages.elements();
        let mut identity = identity.clone();
        identity.group_id.get_or_insert_with(|| pair.clone());
        identity.rollout_id = identity.rollout_id.map(|id| format!("{id}.{name}"));
        let mut whole = prompt.clone();
        whole.put("reward", Value::Json(format!("{{\"preference\":{preference:.1}}}").into()));
        let conversation = Conversation {
            messages: history.iter().copied().chain(output.elements()).collect(),
            history: history.len(),
            trace_id: Some(format!("{pair}.{name}")),
            identity,
        };
        read_conversation(conversation, whole, origin, sink)?;
    }
    Ok(())
}

/// What a line says of the rollout that it holds.
fn identity(record: &mut Attributes<'_>, options: &ReadOptions) -> Identity {
    let mut identity = Identity {
        rollout_id: take_id(record, "rollout_id"),
        attempt_id: take_id(record, "attempt_id"),
        group_id: take_id(record, "group").or_else(|| take_id(record, "group_id")),
        policy_version: record.take_int("policy_version"),
        ..Identity::default()
    };
    if let Some(split) = record.text("split").and_then(split) {
        identity.split = Some(split);
        record.take("split");
    }
    // The user's own key may stand beside the messages or in the metadata.
    identify(&mut identity, &Attributes::of_object(record.get("metadata")), options);
    let outer = Attributes::new(record.iter().map(|(key, value)| (key.to_owned().into(), value.clone())).collect());
    identify(&mut identity, &outer, options);
    if let Some((TaskIdSource::Metadata, _)) = identity.task_id {
        record.take("task_id");
    }
    identity
}

/// What the calls of a conversation share.
struct Settings {
    tools: Vec<ToolOffer>,
    tools_known: bool,
    parallel_tool_calls: Option<bool>,
    model: Option<String>,
    temperature: Option<f64>,
}

impl Settings {
    fn take(record: &mut Attributes<'_>) -> Self {
        let offered = record.take("tools").or_else(|| record.take("functions"));
        let mut tools = Vec::new();
        if let Some(offered) = offered.as_ref().and_then(Value::as_text) {
            push_tools(&offered, &mut tools);
        }
        Self {
            tools_known: offered.is_some(),
            tools,
            parallel_tool_calls: record.take_bool("parallel_tool_calls"),
            model: record.take_text("model"),
            temperature: record.take_double("temperature"),
        }
    }
}

/// One run: the JSON of its messages, of which the first `history` are no answers.
struct Conversation<'a> {
    messages: Vec<&'a str>,
    history: usize,
    trace_id: Option<String>,
    identity: Identity,
}

impl Conversation<'_> {
    /// A span at one of the messages.
    fn span(&self, index: usize, kind: Kind, origin: Origin) -> Span {
        Span {
            origin: Origin { position: u32::try_from(index).unwrap_or(u32::MAX), ..origin },
            format: Format::Chat,
            trace_id: self.trace_id.clone(),
            span_id: format!("{}.{index}", origin.line),
            order: Some(format!("{:012}.{index:06}", origin.line)),
            kind,
            kind_evidence: Some("messages".to_owned()),
            identity: self.identity.clone(),
            ..Span::default()
        }
    }
}

fn read_conversation(
    conversation: Conversation<'_>,
    mut record: Attributes<'_>,
    origin: Origin,
    sink: &mut Sink,
) -> Result<(), Reject> {
    let settings = Settings::take(&mut record);
    let (mut heard_bytes, mut prompts_bytes) = (0usize, 0usize);
    let mut heard: Vec<Message> = Vec::new();
    let mut spans: Vec<Span> = Vec::new();
    for (index, json) in conversation.messages.iter().enumerate() {
        let mut stated = read_stated(json, Role::User).map_err(|source| Reject::Shape { container: "messages", source })?;
        let mut extras = Attributes::from_json(json).unwrap_or_default();
        for key in ["role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal"] {
            extras.take(key);
        }
        for key in ["reasoning_content", "reasoning", "finish_reason", "is_error"] {
            extras.take(key);
        }
        let history = index < conversation.history || extras.take_double("weight") == Some(0.0);
        let answer = stated.pop_if(|last| last.message.role == Role::Assistant && !history);
        heard.extend(stated.into_iter().map(|stated| stated.message));
        if answer.is_some() {
            prompts_bytes += heard_bytes;
        }
        heard_bytes += json.len();
        if prompts_bytes > MAX_PROMPTS_BYTES {
            let length = format!("{} messages", conversation.messages.len());
            let expected =
                "a conversation whose prompts have at most 256 MiB together; give messages that are history the weight 0";
            return Err(Reject::bad_value("messages", &length, expected));
        }
        match answer {
            Some(answer) => {
                let mut span = conversation.span(index, Kind::Llm, origin);
                let mut choice =
                    Choice { finish_reason: answer.finish_reason, message: answer.message.clone(), ..Choice::default() };
                let prompt_token_ids = take_tokens(&mut extras, &mut choice, span.origin, sink);
                span.identity.agent_hint = choice.message.name.clone();
                span.rewards.extend(take_rewards(&mut extras, span.origin, sink));
                span.llm = Some(Box::new(settings.llm(heard.clone(), choice, prompt_token_ids)));
                span.attributes_json = extras.to_json();
                spans.push(span);
                heard.push(answer.message);
            }
            None if !extras.is_empty() => {
                let rest = extras.to_json().unwrap_or_default();
                record.put(format!("messages.{index}"), Value::Json(rest.into()));
            }
            None => {}
        }
    }
    spans.extend(unheard_results(&conversation, &heard, origin));
    let last = spans.iter_mut().rev().find_map(|span| Some((span.origin, span.llm.as_deref_mut()?)));
    if let Some((at, llm)) = last
        && let Some(choice) = llm.choices.first_mut()
    {
        llm.prompt_token_ids = take_tokens(&mut record, choice, at, sink).or(llm.prompt_token_ids.take());
        choice.finish_reason = record.take_text("finish_reason").or(choice.finish_reason.take());
    }
    let end = conversation.messages.len();
    let rewards = take_rewards(&mut record, origin, sink);
    if !rewards.is_empty() {
        let mut span = conversation.span(end, Kind::Reward, origin);
        span.kind_evidence = Some("reward".to_owned());
        span.name = "reward".to_owned();
        span.rewards = rewards.into_iter().map(|reward| Reward { is_final: true, ..reward }).collect();
        spans.push(span);
    }
    if !record.is_empty() || spans.is_empty() {
        let mut span = conversation.span(end + 1, Kind::Rollout, origin);
        span.name = "rollout".to_owned();
        span.order = None;
        span.rollout = Some(Box::<RolloutRecord>::default());
        span.attributes_json = record.to_json();
        spans.push(span);
    }
    sink.spans.append(&mut spans);
    Ok(())
}

impl Settings {
    fn llm(&self, input: Vec<Message>, choice: Choice, prompt_token_ids: Option<Vec<i32>>) -> Llm {
        Llm {
            model: self.model.clone(),
            temperature: self.temperature,
            params_json: self.parallel_tool_calls.map(|flag| format!("{{\"parallel_tool_calls\":{flag}}}")),
            input,
            tools: self.tools.clone(),
            tools_known: self.tools_known,
            choices: vec![choice],
            prompt_token_ids,
            ..Llm::default()
        }
    }
}

/// Moves token ids and log-probabilities into a choice; returns the ids of the prompt.
fn take_tokens(source: &mut Attributes<'_>, choice: &mut Choice, origin: Origin, sink: &mut Sink) -> Option<Vec<i32>> {
    let key = if source.contains("response_token_ids") { "response_token_ids" } else { "token_ids" };
    if let Some(ids) = take_token_ids(source, key, origin, sink) {
        choice.token_ids = Some(ids);
    }
    if let Some(logprobs) = take_logprobs(source, "logprobs", choice.token_ids.as_deref(), origin, sink) {
        choice.logprobs = Some(logprobs);
    }
    take_token_ids(source, "prompt_token_ids", origin, sink)
}

/// `reward`: a number, or an object of numbers by name. The only one, or the one named `reward`, is the primary.
fn take_rewards(source: &mut Attributes<'_>, origin: Origin, sink: &mut Sink) -> Vec<Reward> {
    let reward = |name: &str, value, primary| Reward { name: name.to_owned(), value: Some(value), primary, ..Reward::default() };
    let Some(object) = source.take_object("reward") else {
        return take_reward(source, "reward", origin, sink).map(|value| reward("reward", value, true)).into_iter().collect();
    };
    let mut dimensions = Attributes::of_object(Some(&object));
    let names: Vec<String> = dimensions.iter().map(|(name, _)| name.to_owned()).collect();
    let primary = |name: &str| name == "reward" || names.len() == 1;
    let values = names.iter().filter_map(|name| {
        let value = dimensions.take(name)?;
        let number = record::reward_value(&value);
        if number.is_none() {
            let text = value.as_text().unwrap_or_default();
            sink.reject(origin, Reject::bad_value(format!("reward.{name}"), &text, "a finite number"), text.as_bytes());
        }
        Some(reward(name, number?, primary(name)))
    });
    values.collect()
}

/// Results that no call was told, because the run ended there: tool spans, since no prompt holds them.
fn unheard_results(conversation: &Conversation<'_>, heard: &[Message], origin: Origin) -> Vec<Span> {
    let Some(last) = heard.iter().rposition(|message| message.role == Role::Assistant) else { return Vec::new() };
    let asked = &heard[last].tool_calls;
    let results = heard[last + 1..].iter().zip(last + 1..).filter(|(message, _)| message.role == Role::Tool);
    let spans = results.map(|(message, index)| {
        let request = asked.iter().find(|request| request.id.is_some() && request.id == message.tool_call_id);
        let mut span = conversation.span(index, Kind::Tool, origin);
        span.name = request.map(|request| request.name.clone()).or_else(|| message.name.clone()).unwrap_or_default();
        span.tool = Some(Box::new(Tool {
            name: Some(span.name.clone()).filter(|name| !name.is_empty()),
            call_id: message.tool_call_id.clone(),
            arguments: request.map(|request| request.arguments.clone()),
            result: message.content.clone().or_else(|| message.parts_json.clone()),
            result_is_error: message.is_error,
            ..Tool::default()
        }));
        span
    });
    spans.collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    fn spans(record: &str) -> Vec<Span> {
        let sink = sink_of(record, &[]);
        assert_eq!(codes(&sink), [""; 0], "{record}");
        sink.spans
    }

    fn llm(span: &Span) -> &Llm {
        span.llm.as_deref().unwrap()
    }

    #[test]
    fn every_answer_is_a_call_that_heard_all_before_it() {
        let spans = spans(
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},
                 {"role":"assistant","name":"solver","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
                 {"role":"tool","tool_call_id":"c1","content":"5"},
                 {"role":"assistant","content":"5","token_ids":[20,2],"logprobs":[-0.5,-0.25],"finish_reason":"stop","note":"last"}],
                "tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"parallel_tool_calls":false,
                "reward":1,"task_id":"t","group":"g","split":"train","policy_version":4,"prompt_token_ids":[1,2,3],"source":"mine"}"#,
        );
        let kinds: Vec<_> = spans.iter().map(|span| (span.kind, span.span_id.as_str())).collect();
        assert_eq!(kinds, [(Kind::Llm, "7.2"), (Kind::Llm, "7.4"), (Kind::Reward, "7.5"), (Kind::Rollout, "7.6")]);
        let (first, last) = (llm(&spans[0]), llm(&spans[1]));
        assert_eq!((first.input.len(), last.input.len()), (2, 4));
        assert_eq!(first.choices[0].message.tool_calls[0].name, "f");
        assert_eq!(spans[0].identity.agent_hint.as_deref(), Some("solver"));
        assert_eq!((first.tools.len(), first.tools_known), (1, true));
        assert_eq!(first.params_json.as_deref(), Some(r#"{"parallel_tool_calls":false}"#));
        assert_eq!((first.prompt_token_ids.as_ref(), last.prompt_token_ids.as_deref()), (None, Some(&[1, 2, 3][..])));
        assert_eq!(last.choices[0].token_ids.as_deref(), Some(&[20, 2][..]));
        assert_eq!(last.choices[0].logprobs.as_deref(), Some(&[-0.5, -0.25][..]));
        assert_eq!(last.choices[0].finish_reason.as_deref(), Some("stop"));
        assert_eq!(spans[1].attributes_json.as_deref(), Some(r#"{"note":"last"}"#));
        let reward = &spans[2].rewards[0];
        assert_eq!((reward.name.as_str(), reward.value, reward.is_final, reward.primary), ("reward", Some(1.0), true, true));
        assert_eq!(spans[3].attributes_json.as_deref(), Some(r#"{"source":"mine"}"#));
        for span in &spans {
            let identity = &span.identity;
            assert_eq!(identity.task_id, Some((TaskIdSource::Metadata, "t".to_owned())));
            assert_eq!((identity.group_id.as_deref(), identity.split.as_deref()), (Some("g"), Some("train")));
            assert_eq!((identity.policy_version, &span.trace_id), (Some(4), &None));
        }
    }

    #[test]
    fn weight_zero_is_history() {
        let spans = spans(
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},
                            {"role":"user","content":"c"},{"role":"assistant","content":"d","weight":1}]}"#,
        );
        assert_eq!(spans.len(), 1);
        assert_eq!((llm(&spans[0]).input.len(), llm(&spans[0]).tools_known), (3, false));
    }

    #[test]
    fn results_that_no_call_was_told_are_spans() {
        let spans = spans(
            r#"{"messages":[{"role":"user","content":"a"},
                 {"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},
                 {"role":"tool","tool_call_id":"c1","content":"boom","is_error":true}]}"#,
        );
        let tool = spans[1].tool.as_deref().unwrap();
        assert_eq!((spans.len(), spans[1].kind, tool.name.as_deref()), (2, Kind::Tool, Some("f")));
        assert_eq!((tool.arguments.as_deref(), tool.result.as_deref()), (Some(r#"{"x":1}"#), Some("boom")));
        assert_eq!(tool.result_is_error, Some(true));
    }

    #[test]
    fn preference_pair_is_two_rollouts_of_a_group() {
        let spans = spans(
            r#"{"input":{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"h"},{"role":"user","content":"r"}],"tools":[]},
                "preferred_output":[{"role":"assistant","content":"good"}],"non_preferred_output":[{"role":"assistant","content":"bad"}]}"#,
        );
        let calls: Vec<_> = spans.iter().filter(|span| span.kind == Kind::Llm).collect();
        let said: Vec<_> = calls.iter().map(|span| llm(span).choices[0].message.content.as_deref().unwrap()).collect();
        assert_eq!((said, llm(calls[0]).input.len()), (vec!["good", "bad"], 3));
        let rewards: Vec<_> =
            spans.iter().flat_map(|span| &span.rewards).map(|reward| (reward.name.as_str(), reward.value)).collect();
        assert_eq!(rewards, [("preference", Some(1.0)), ("preference", Some(0.0))]);
        assert_ne!(calls[0].trace_id, calls[1].trace_id);
        assert!(calls[0].identity.group_id.is_some() && calls[0].identity.group_id == calls[1].identity.group_id);
    }

    #[test]
    fn unusable_parts_are_set_aside_alone() {
        let answer = r#"{"role":"user","content":"q"},{"role":"assistant","content":"a"}"#;
        for (rest, code, values) in [
            (r#""reward":"NaN""#, "bad_value", vec![]),
            (r#""reward":{"good":1,"bad":"x"}"#, "bad_value", vec![1.0]),
            (r#""response_token_ids":[1,2],"logprobs":[-1]"#, "bad_value", vec![]),
            (r#""prompt_token_ids":["a"]"#, "bad_value", vec![]),
        ] {
            let sink = sink_of(&format!(r#"{{"messages":[{answer}],{rest}}}"#), &[]);
            assert_eq!(codes(&sink), [code], "{rest}");
            let found: Vec<_> = sink.spans.iter().flat_map(|span| &span.rewards).filter_map(|reward| reward.value).collect();
            assert_eq!((found, sink.spans[0].kind), (values, Kind::Llm), "{rest}");
        }
        assert_eq!(codes(&sink_of(r#"{"input":{},"preferred_output":[]}"#, &[])), ["missing_field"]);
    }

    #[test]
    fn conversation_that_would_fill_the_memory_is_refused() {
        let answer = format!(r#"{{"role":"assistant","content":"{}"}}"#, "x".repeat(1 << 20));
        let messages = vec![answer; 24].join(",");
        let sink = sink_of(&format!(r#"{{"messages":[{messages}]}}"#), &[]);
        assert_eq!((codes(&sink), sink.spans.len()), (vec!["bad_value"], 0));
        let history = messages.replace(r#"{"role""#, r#"{"weight":0,"role""#);
        assert_eq!(codes(&sink_of(&format!(r#"{{"messages":[{history}]}}"#), &[])), [""; 0]);
    }

    #[test]
    fn conversation_without_an_answer_is_kept() {
        let spans = spans(r#"{"messages":[{"role":"user","content":"q"}],"reference_answer":{"x":1}}"#);
        assert_eq!((spans.len(), spans[0].kind), (1, Kind::Rollout));
        assert_eq!(spans[0].attributes_json.as_deref(), Some(r#"{"reference_answer":{"x":1}}"#));
    }
}
