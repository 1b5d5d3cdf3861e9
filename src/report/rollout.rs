//! One rollout as the page shows it: what was said, step by step, with its tools, rewards, findings, credit and tokens.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::query::rows;
use super::tokens::{self, TokenRow, Tokens, signed};
use crate::lake::Lake;

/// Characters of a text that are shown at most.
const CHARACTERS: usize = 4000;

/// Characters of a task that a rollout's line shows.
const TITLE: usize = 140;

/// Calls of a rollout that are shown at most.
const CALLS: usize = 40;

/// Messages of a call's prompt that are shown at most, the last ones.
const MESSAGES: usize = 30;

#[derive(Debug, Clone, Deserialize)]
struct RolloutRow {
    batch: String,
    rollout_id: String,
    task_id: Option<String>,
    group_id: String,
    split: String,
    status: String,
    failure_class: Option<String>,
    policy_version: Option<i64>,
    reward: Option<f64>,
    reward_source: Option<String>,
    task_input: Option<String>,
    calls: i64,
    tool_calls: i64,
    tool_errors: i64,
    output_tokens: Option<i64>,
    duration_ms: Option<f64>,
    source_file: String,
}

#[derive(Debug, Clone, Deserialize)]
struct CallRow {
    batch: String,
    rollout_id: String,
    call_id: String,
    step: i64,
    agent: Option<String>,
    model: Option<String>,
    messages: Option<String>,
    response: Option<String>,
    finish_reason: Option<String>,
    error: Option<String>,
    abandoned: bool,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    response_token_ids: Option<Vec<i64>>,
    behaviour_logprobs: Option<Vec<f64>>,
    latency_ms: Option<f64>,
    reason: Option<String>,
    return_value: Option<f64>,
    baseline: Option<f64>,
    step_reward: Option<f64>,
    reward: Option<f64>,
    advantage: Option<f64>,
    weight: Option<f64>,
    drop_reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct ToolRow {
    batch: String,
    rollout_id: String,
    call_id: Option<String>,
    name: Option<String>,
    tool_call_id: Option<String>,
    arguments: Option<String>,
    result: Option<String>,
    status: String,
    status_evidence: Option<String>,
    error: Option<String>,
    latency_ms: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct AirRow {
    batch: String,
    rollout_id: String,
    call_id: String,
    rule: String,
    weight: f64,
    scale: f64,
    value: f64,
    span: Option<String>,
    tool: Option<String>,
    arguments: Option<String>,
    answer: Option<String>,
    span_kind: Option<String>,
    span_name: Option<String>,
    span_message: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct RewardRow {
    batch: String,
    rollout_id: String,
    name: String,
    value: Option<f64>,
    label: Option<String>,
    source: Option<String>,
    comment: Option<String>,
}

/// A rollout as the page shows it. Texts are as they came but for their length; the template escapes them.
#[derive(Debug, Clone, Serialize)]
pub struct Rollout {
    pub batch: String,
    pub rollout_id: String,
    pub task: String,
    /// What its line says: the beginning of the task.
    pub title: String,
    /// `reward` as text, and its level for colour: none, low, some or full.
    pub reward: String,
    pub level: &'static str,
    pub air: String,
    pub failure: String,
    pub tool_errors: i64,
    pub calls: i64,
    pub agents: Vec<String>,
    pub tools: Vec<String>,
    /// Name and value, in the order in which they are shown.
    pub facts: Vec<(&'static str, String)>,
    pub task_input: String,
    pub stated: Vec<String>,
    pub steps: Vec<Step>,
    pub more_calls: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub step: i64,
    pub agent: String,
    pub about: String,
    /// Whether the prompt repeats nothing that was shown.
    pub rewritten: bool,
    pub more_messages: usize,
    pub messages: Vec<Said>,
    pub response: Said,
    pub tools: Vec<Tool>,
    pub findings: Vec<Finding>,
    pub advantage: String,
    pub advantage_class: String,
    pub numbers: Vec<(&'static str, String)>,
    pub reason: String,
    pub dropped: String,
    pub error: String,
    pub tokens: Option<Tokens>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Said {
    pub role: String,
    pub text: String,
    pub reasoning: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tool {
    pub name: String,
    pub arguments: String,
    pub status: String,
    pub evidence: String,
    pub answer: String,
    pub seconds: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub rule: String,
    pub value: String,
    pub sign: &'static str,
    pub scaled: String,
    pub evidence: String,
}

/// Batch, rollout and call, or an empty call where a row is about the rollout.
type Key = (String, String, String);

/// Reads the rollouts of the table `chosen`, newest batch first, and the best rewarded first of each.
///
/// * `scale`: the advantage that is shaded most.
pub async fn read(session: &SessionContext, lake: &Lake, scale: f64) -> Result<Vec<Rollout>> {
    let mut found: Vec<RolloutRow> =
        rows(session, include_str!("../../pipelines/report/chosen_rollouts.sql"), &["batch", "rollout_id"]).await?;
    let calls: Vec<CallRow> =
        rows(session, include_str!("../../pipelines/report/chosen_calls.sql"), &["batch", "rollout_id", "step"]).await?;
    let tools: Vec<ToolRow> =
        rows(session, include_str!("../../pipelines/report/chosen_tools.sql"), &["batch", "rollout_id", "seq"]).await?;
    let air: Vec<AirRow> =
        rows(session, include_str!("../../pipelines/report/chosen_air.sql"), &["batch", "rollout_id", "step", "rule", "span"])
            .await?;
    let rewards: Vec<RewardRow> =
        rows(session, include_str!("../../pipelines/report/chosen_rewards.sql"), &["batch", "rollout_id", "seq", "reward_id"])
            .await?;
    let trained: Vec<TokenRow> =
        rows(session, include_str!("../../pipelines/report/chosen_tokens.sql"), &["batch", "rollout_id", "step", "position"])
            .await?;
    let whole = |batch: &str, rollout: &str| -> Key { (batch.to_owned(), rollout.to_owned(), String::new()) };
    let mut all = Parts {
        calls: by(calls, |row| whole(&row.batch, &row.rollout_id)),
        tools: by(tools, |row| (row.batch.clone(), row.rollout_id.clone(), row.call_id.clone().unwrap_or_default())),
        air: by(air, |row| (row.batch.clone(), row.rollout_id.clone(), row.call_id.clone())),
        rewards: by(rewards, |row| whole(&row.batch, &row.rollout_id)),
        trained: by(trained, |row| (row.batch.clone(), row.rollout_id.clone(), row.call_id.clone())),
        tokenizers: BTreeMap::new(),
        scale,
    };
    found.sort_by(|one, other| {
        let reward = |row: &RolloutRow| row.reward.unwrap_or(f64::NEG_INFINITY);
        let batches = other.batch.cmp(&one.batch);
        batches.then(reward(other).total_cmp(&reward(one))).then_with(|| one.rollout_id.cmp(&other.rollout_id))
    });
    let mut shown = Vec::new();
    for row in found {
        let version = tokens::tokenizer(lake, row.policy_version, &mut all.tokenizers).await?;
        shown.push(all.rollout(row, version));
    }
    Ok(shown)
}

fn by<T>(rows: Vec<T>, key: impl Fn(&T) -> Key) -> BTreeMap<Key, Vec<T>> {
    let mut parts: BTreeMap<Key, Vec<T>> = BTreeMap::new();
    for row in rows {
        parts.entry(key(&row)).or_default().push(row);
    }
    parts
}

/// The rows of all rollouts by what they are about.
struct Parts {
    calls: BTreeMap<Key, Vec<CallRow>>,
    tools: BTreeMap<Key, Vec<ToolRow>>,
    air: BTreeMap<Key, Vec<AirRow>>,
    rewards: BTreeMap<Key, Vec<RewardRow>>,
    trained: BTreeMap<Key, Vec<TokenRow>>,
    tokenizers: BTreeMap<u64, Option<crate::text::Tokenizer>>,
    scale: f64,
}

impl Parts {
    fn rollout(&mut self, row: RolloutRow, version: Option<u64>) -> Rollout {
        let key = (row.batch.clone(), row.rollout_id.clone(), String::new());
        let calls = self.calls.remove(&key).unwrap_or_default();
        let mut conversation = Conversation::default();
        let steps: Vec<Step> = calls.iter().take(CALLS).map(|call| self.step(call, version, &mut conversation)).collect();
        let of_rollout = |key: &Key| key.0 == row.batch && key.1 == row.rollout_id;
        let air: f64 = self.air.iter().filter(|(key, _)| of_rollout(key)).flat_map(|(_, rows)| rows).map(|row| row.value).sum();
        let agents: BTreeSet<String> = calls.iter().filter_map(|call| call.agent.clone()).collect();
        let tools: BTreeSet<String> = steps.iter().flat_map(|step| &step.tools).map(|tool| tool.name.clone()).collect();
        let stated = self.rewards.remove(&key).unwrap_or_default().iter().map(stated).collect();
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut facts = vec![
            ("rollout", row.rollout_id.clone()),
            ("group", row.group_id.clone()),
            ("split", row.split.clone()),
            ("status", row.status.clone()),
            ("policy", row.policy_version.map_or_else(String::new, |version| version.to_string())),
            ("reward from", optional(&row.reward_source)),
            ("tool calls", format!("{} ({} failed)", row.tool_calls, row.tool_errors)),
            ("tokens written", row.output_tokens.map_or_else(String::new, |tokens| tokens.to_string())),
            ("took", row.duration_ms.map_or_else(String::new, duration)),
            ("read from", row.source_file.rsplit('/').next().unwrap_or_default().to_owned()),
        ];
        facts.retain(|(_, value)| !value.is_empty());
        let level = match row.reward {
            None => "none",
            Some(reward) if reward <= 0.0 => "low",
            Some(reward) if reward < 1.0 => "some",
            Some(_) => "full",
        };
        let task_input = task_input(row.task_input.as_deref());
        let beginning: String = task_input.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TITLE).collect();
        let task = row.task_id.clone().unwrap_or_else(|| row.group_id.clone());
        Rollout {
            title: if beginning.is_empty() { task.clone() } else { beginning },
            task,
            reward: row.reward.map_or_else(|| "none".to_owned(), plain),
            level,
            air: signed(air),
            failure: optional(&row.failure_class).replace('_', " "),
            tool_errors: row.tool_errors,
            calls: row.calls,
            agents: agents.into_iter().collect(),
            tools: tools.into_iter().collect(),
            facts,
            task_input,
            stated,
            more_calls: calls.len().saturating_sub(CALLS),
            steps,
            batch: row.batch,
            rollout_id: row.rollout_id,
        }
    }

    fn step(&self, call: &CallRow, version: Option<u64>, conversation: &mut Conversation) -> Step {
        let key = (call.batch.clone(), call.rollout_id.clone(), call.call_id.clone());
        let rows = self.tools.get(&key).map(Vec::as_slice).unwrap_or_default();
        let response: Json = call.response.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let prompt = call.messages.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let (rewritten, messages) = conversation.new_messages(prompt);
        conversation.answered(&response, rows);
        let mut messages: Vec<Said> = messages.iter().map(said_with_calls).collect();
        let more_messages = messages.len().saturating_sub(MESSAGES);
        messages.drain(..more_messages);
        let advantage_class = tokens::advantage_class(call.advantage, self.scale);
        let mut numbers = Vec::new();
        for (name, value) in [
            ("step reward", call.step_reward),
            ("reward", call.reward),
            ("return", call.return_value),
            ("baseline", call.baseline),
        ] {
            numbers.extend(value.map(|value| (name, signed(value))));
        }
        numbers.extend(call.weight.filter(|weight| *weight != 1.0).map(|weight| ("weight", plain(weight))));
        let mut about = vec![call.model.clone().unwrap_or_default()];
        about.extend(call.input_tokens.map(|tokens| format!("{tokens} tokens read")));
        about.extend(call.output_tokens.map(|tokens| format!("{tokens} written")));
        about.extend(call.latency_ms.map(duration));
        about.extend(call.finish_reason.clone().map(|reason| format!("ended by {reason}")));
        about.extend(call.abandoned.then(|| "abandoned by the client".to_owned()));
        about.retain(|part| !part.is_empty());
        Step {
            step: call.step,
            agent: call.agent.clone().unwrap_or_else(|| "agent".to_owned()),
            about: about.join(" · "),
            rewritten,
            more_messages,
            messages,
            response: said(&response),
            tools: tools(&response, rows),
            findings: self.air.get(&key).into_iter().flatten().map(finding).collect(),
            advantage: call.advantage.map_or_else(String::new, signed),
            advantage_class: advantage_class.clone(),
            numbers,
            reason: call.reason.clone().unwrap_or_default(),
            dropped: call.drop_reason.clone().unwrap_or_default().replace('_', " "),
            error: cut(&call.error.clone().unwrap_or_default()),
            tokens: self.tokens(&key, call, version).map(|tokens| Tokens { advantage_class, ..tokens }),
        }
    }

    fn tokens(&self, key: &Key, call: &CallRow, version: Option<u64>) -> Option<Tokens> {
        if let Some(rows) = self.trained.get(key) {
            return Some(tokens::trained(rows));
        }
        let tokenizer = self.tokenizers.get(&version?)?.as_ref()?;
        let ids = call.response_token_ids.as_deref().filter(|ids| !ids.is_empty())?;
        Some(tokens::sampled(ids, call.behaviour_logprobs.as_deref().unwrap_or_default(), tokenizer))
    }
}

/// What of a rollout's conversation has been shown, so that nothing is shown twice.
#[derive(Default)]
struct Conversation {
    /// Each prompt so far, with the response that followed.
    prompts: Vec<Vec<Json>>,
    /// Results that stand beside their tool calls, by the call's id.
    results: BTreeMap<String, String>,
}

impl Conversation {
    /// Messages of a prompt that were not shown yet, and whether it goes on from none of the prompts before.
    fn new_messages(&mut self, prompt: Vec<Json>) -> (bool, Vec<Json>) {
        let known = self.prompts.iter().filter(|shown| begins_with(&prompt, shown)).map(Vec::len).max();
        let rewritten = known.is_none() && !self.prompts.is_empty();
        let fresh = prompt.iter().skip(known.unwrap_or(0)).filter(|message| !self.is_shown_result(message)).cloned().collect();
        self.prompts.push(prompt);
        (rewritten, fresh)
    }

    fn answered(&mut self, response: &Json, tools: &[ToolRow]) {
        if let Some(prompt) = self.prompts.last_mut().filter(|_| response.is_object()) {
            prompt.push(response.clone());
        }
        for tool in tools {
            if let (Some(id), Some(result)) = (&tool.tool_call_id, &tool.result) {
                self.results.insert(id.clone(), result.clone());
            }
        }
    }

    fn is_shown_result(&self, message: &Json) -> bool {
        let shown = message["tool_call_id"].as_str().and_then(|id| self.results.get(id));
        shown.is_some_and(|result| message["content"].as_str().is_some_and(|content| content.trim() == result.trim()))
    }
}

/// Whether a prompt goes on from one before. What the assistant said may come back in another spelling, so its role is enough.
fn begins_with(prompt: &[Json], shown: &[Json]) -> bool {
    let same = |one: &Json, other: &Json| match one["role"].as_str() {
        Some("assistant") => other["role"] == "assistant",
        _ => one["role"] == other["role"] && one["content"] == other["content"],
    };
    prompt.len() >= shown.len() && prompt.iter().zip(shown).all(|(one, other)| same(one, other))
}

fn said(message: &Json) -> Said {
    let text = [&message["content"], &message["refusal"]].into_iter().map(as_text).filter(|text| !text.is_empty());
    Said {
        role: message["role"].as_str().unwrap_or("assistant").to_owned(),
        text: cut(&text.collect::<Vec<_>>().join("\n")),
        reasoning: cut(&as_text(&message["reasoning_content"])),
    }
}

/// A message of a prompt, whose tool calls have no rows of their own.
fn said_with_calls(message: &Json) -> Said {
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let calls = calls.map(|call| format!("{}({})", as_text(&function(call)["name"]), as_text(&function(call)["arguments"])));
    let Said { role, text, reasoning } = said(message);
    let texts: Vec<String> = std::iter::once(text).chain(calls).filter(|text| !text.is_empty()).collect();
    Said { role, text: cut(&texts.join("\n")), reasoning }
}

fn function(call: &Json) -> &Json {
    if call["function"].is_object() { &call["function"] } else { call }
}

/// The tool calls of a response: as they were run, and those that nothing is recorded of.
fn tools(response: &Json, rows: &[ToolRow]) -> Vec<Tool> {
    let mut tools: Vec<Tool> = rows
        .iter()
        .map(|row| Tool {
            name: row.name.clone().unwrap_or_else(|| "unnamed tool".to_owned()),
            arguments: cut(row.arguments.as_deref().unwrap_or_default()),
            status: row.status.clone(),
            evidence: row.status_evidence.clone().unwrap_or_default().replace('_', " "),
            answer: cut(row.error.as_ref().or(row.result.as_ref()).map_or("", String::as_str)),
            seconds: row.latency_ms.map_or_else(String::new, duration),
        })
        .collect();
    for call in response["tool_calls"].as_array().into_iter().flatten() {
        if rows.iter().any(|row| row.tool_call_id.as_deref() == call["id"].as_str()) {
            continue;
        }
        tools.push(Tool {
            name: as_text(&function(call)["name"]),
            arguments: cut(&as_text(&function(call)["arguments"])),
            status: "unknown".to_owned(),
            evidence: "asked for, never seen".to_owned(),
            answer: String::new(),
            seconds: String::new(),
        });
    }
    tools
}

fn finding(row: &AirRow) -> Finding {
    let evidence = match (&row.tool, &row.span_kind, &row.span) {
        (Some(tool), _, _) => {
            format!("{tool}({}) → {}", row.arguments.as_deref().unwrap_or_default(), row.answer.as_deref().unwrap_or("nothing"))
        }
        (None, Some(kind), _) => {
            let name = row.span_name.as_deref().unwrap_or_default();
            format!("{kind} {name}: {}", row.span_message.as_deref().unwrap_or_default())
        }
        (None, None, Some(span)) if *span == row.call_id => "this call".to_owned(),
        (None, None, Some(span)) => format!("span {span}"),
        (None, None, None) => String::new(),
    };
    let scaled = row.scale != 1.0 && row.weight != 0.0;
    Finding {
        rule: row.rule.replace('_', " "),
        value: signed(row.value),
        sign: if row.value < 0.0 {
            "minus"
        } else if row.value > 0.0 {
            "plus"
        } else {
            "none"
        },
        scaled: if scaled { format!("{} × {}", signed(row.weight), plain(row.scale)) } else { String::new() },
        evidence: evidence.chars().take(500).collect(),
    }
}

fn stated(row: &RewardRow) -> String {
    let mut text = format!("{}: {}", row.name, row.value.map_or_else(|| row.label.clone().unwrap_or_default(), plain));
    if let Some(source) = &row.source {
        text.push_str(&format!(", by {source}"));
    }
    if let Some(comment) = &row.comment {
        text.push_str(&format!(" ({})", cut(comment)));
    }
    text
}

/// The task's text where it is one, else its JSON.
fn task_input(input: Option<&str>) -> String {
    let Some(input) = input else { return String::new() };
    let json: Json = serde_json::from_str(input).unwrap_or_else(|_| Json::String(input.to_owned()));
    cut(&as_text(if json["input"].is_string() { &json["input"] } else { &json }))
}

/// JSON text without its quotes, other JSON as it is written, null as nothing.
fn as_text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A text of bounded length, which says what is missing.
fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} more characters)", &text[..end], text[end..].chars().count()),
    }
}

/// A number without digits that say nothing.
pub fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.replace('-', "−") }
}

/// Milliseconds as a person says them.
pub fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1000.0),
        ms => format!("{:.0} min {:02.0} s", (ms / 60_000.0).floor(), (ms / 1000.0) % 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(id: &str, result: &str) -> ToolRow {
        let row = json!({"batch": "b", "rollout_id": "r", "tool_call_id": id, "name": "add", "result": result, "status": "ok"});
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn nothing_of_a_conversation_is_shown_twice() {
        let (system, user) = (json!({"role": "system", "content": "s"}), json!({"role": "user", "content": "u"}));
        let asked = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "name": "add", "arguments": "{}"}]});
        let mut conversation = Conversation::default();
        assert_eq!(conversation.new_messages(vec![system.clone(), user.clone()]), (false, vec![system.clone(), user.clone()]));
        conversation.answered(&asked, &[tool("1", "4")]);
        // The client writes the assistant's message in its own way; the result stands beside its call already.
        let again = json!({"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "add"}}]});
        let (result, next) =
            (json!({"role": "tool", "tool_call_id": "1", "content": "4\n"}), json!({"role": "user", "content": "v"}));
        let prompt = vec![system.clone(), user, again, result, next.clone()];
        assert_eq!(conversation.new_messages(prompt), (false, vec![next]));
        let other = json!({"role": "user", "content": "something else"});
        assert_eq!(conversation.new_messages(vec![system.clone(), other.clone()]), (true, vec![system, other]));
    }

    #[test]
    fn a_tool_call_without_a_record_is_shown_as_such() {
        let response =
            json!({"tool_calls": [{"id": "1", "name": "add"}, {"id": "2", "function": {"name": "sub", "arguments": "{}"}}]});
        let found = tools(&response, &[tool("1", "4")]);
        let said: Vec<(&str, &str)> = found.iter().map(|tool| (tool.name.as_str(), tool.status.as_str())).collect();
        assert_eq!(said, [("add", "ok"), ("sub", "unknown")]);
    }

    #[test]
    fn texts_are_bounded_and_numbers_short() {
        assert_eq!(cut(&"ä".repeat(CHARACTERS + 3)), format!("{}… (3 more characters)", "ä".repeat(CHARACTERS)));
        assert_eq!([plain(0.5), plain(1.0), plain(-0.1234), plain(-1e-9)], ["0.5", "1", "−0.123", "0"]);
        assert_eq!([duration(12.4), duration(3210.0), duration(125_000.0)], ["12 ms", "3.2 s", "2 min 05 s"]);
        assert_eq!(task_input(Some(r#"{"input": "What?", "id": 1}"#)), "What?");
        assert_eq!((task_input(Some("plain")), task_input(Some("{\"a\": 1}"))), ("plain".to_owned(), "{\"a\":1}".to_owned()));
    }
}
