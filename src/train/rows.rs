//! What is trained on: transitions of the batch as token ids, in an order that never depends on time.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type};
use futures::StreamExt as _;
use serde_json::Value;

use super::{OldLogprobs, TrainConfig};
use crate::exit::Fault;
use crate::explain;
use crate::loss::Algorithm;
use crate::stage::Context;
use crate::text::Text;

/// All transitions, group by group, so that the forest finds their prefixes and every run the same order.
const TRANSITIONS: &str = "select group_id, rollout_id, call_id, step, policy_version, messages, tools, response, prompt_token_ids, \
     response_token_ids, behaviour_logprobs, temperature, finish_reason, outcome, return_value, advantage, weight, drop_reason \
     from transitions order by group_id, rollout_id, step, call_id";

/// The prompts of all calls.
const CALLS: &str =
    "select rollout_id, call_id, step, messages, tools, prompt_token_ids from calls order by rollout_id, step, call_id";

/// Share of the training groups whose rollouts all have the same outcome.
const ZERO_VARIANCE: &str = "select avg(cast(lowest = highest as double)) from (select min(outcome) as lowest, max(outcome) as highest \
     from transitions where split = 'train' and outcome is not null group by group_id)";

/// Drop reasons that say that a rollout cannot be compared, not that it is bad: imitation does not compare.
const NOT_COMPARABLE: [&str; 5] = ["singleton", "no_variance", "no_reward", "no_estimate", "no_credit"];

/// One LLM call to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub group_id: String,
    pub rollout_id: String,
    pub call_id: String,
    pub step: i64,
    /// Indices of the group and of the rollout, in the order of the rows.
    pub group: usize,
    pub rollout: usize,
    pub prompt: Vec<u32>,
    pub response: Vec<u32>,
    /// As long as the response.
    pub behaviour_logp_t: Option<Vec<f64>>,
    /// Divides the logits; above 0.
    pub temperature: f64,
    pub advantage: f64,
    pub weight: f64,
    pub outcome: Option<f64>,
    pub return_value: Option<f64>,
    /// The response ended at its limit.
    pub truncated: bool,
    pub policy_version: Option<u64>,
}

/// The rows of a batch, and what became of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// Transitions that credit had dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Transitions that training cannot use, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Rows whose ids were made here.
    pub tokenised: u64,
    pub frac_reward_zero_std: Option<f64>,
}

/// Reads the batch's transitions as the algorithm wants them.
///
/// * `text`: the tokenizer and template of the policy, for rows without ids.
/// * `policy_version`: of the policy that is trained.
///
/// `Fault::Failed` where nothing is left to train on, with the reasons by count.
pub async fn read(context: &Context, config: &TrainConfig, text: &Text, policy_version: u64) -> Result<Rows> {
    let session = explain::session(context, &["credit"]).await?;
    let mut found = Rows::default();
    let mut stream = session.sql(TRANSITIONS).await?.execute_stream().await?;
    while let Some(batch) = stream.next().await {
        context.stop.check()?;
        let columns = Columns(batch?);
        for index in 0..columns.0.num_rows() {
            take(&mut found, &columns, index, config, text, policy_version)?;
        }
    }
    let share = session.sql(ZERO_VARIANCE).await?.collect().await?;
    found.frac_reward_zero_std =
        share.iter().filter(|batch| batch.num_rows() > 0).find_map(|batch| primitive::<Float64Type>(batch.column(0), 0));
    if found.rows.is_empty() {
        return Err(Fault::Failed(nothing_left(&found, config)).into());
    }
    Ok(found)
}

/// Puts one transition among the rows, or counts why not.
fn take(found: &mut Rows, columns: &Columns, index: usize, config: &TrainConfig, text: &Text, policy_version: u64) -> Result<()> {
    let imitation = config.algorithm == Algorithm::Sft;
    let drop_reason = columns.text("drop_reason", index);
    if let Some(reason) = drop_reason.filter(|reason| !(imitation && NOT_COMPARABLE.contains(reason))) {
        *found.dropped.entry(reason.to_owned()).or_default() += 1;
        return Ok(());
    }
    let outcome = columns.number::<Float64Type>("outcome", index);
    let answered_by = columns.number::<Int64Type>("policy_version", index).map(i64::unsigned_abs);
    let temperature = columns.number::<Float64Type>("temperature", index).unwrap_or(1.0);
    let advantage = columns.number::<Float64Type>("advantage", index);
    let behaviour: Option<Vec<f64>> =
        columns.list::<Float32Type>("behaviour_logprobs", index).map(|list| list.into_iter().map(f64::from).collect());
    let needs_behaviour = config.algorithm.has_ratio() && config.old_logprobs == OldLogprobs::Behaviour;
    let too_old = answered_by.is_some_and(|version| version + config.max_policy_lag < policy_version);
    let refusal = match () {
        () if imitation && config.min_outcome.is_some_and(|least| outcome.is_none_or(|outcome| outcome < least)) => {
            "outcome_below_minimum"
        }
        () if imitation => "",
        () if too_old => "too_old_policy",
        () if answered_by.is_some_and(|version| version > policy_version) => "newer_policy",
        () if advantage.is_none() => "no_advantage",
        () if needs_behaviour && behaviour.is_none() => "no_behaviour_logprobs",
        // At temperature 0 nothing was sampled, so that there is no distribution to learn about.
        () if config.algorithm.has_ratio() && temperature <= 0.0 => "greedy",
        () => "",
    };
    if !refusal.is_empty() {
        *found.refused.entry(refusal.to_owned()).or_default() += 1;
        return Ok(());
    }
    let recorded = columns.ids("prompt_token_ids", index)?.zip(columns.ids("response_token_ids", index)?);
    let is_recorded = recorded.is_some();
    let ids = match recorded {
        Some(ids) => Ok(ids),
        None => tokenise(columns, index, text)?,
    };
    let (prompt, response) = match ids {
        Ok(ids) => ids,
        Err(reason) => {
            *found.refused.entry(reason.to_owned()).or_default() += 1;
            return Ok(());
        }
    };
    let unequal = behaviour.as_ref().is_some_and(|behaviour_t| behaviour_t.len() != response.len());
    if prompt.is_empty() || response.is_empty() || (unequal && needs_behaviour) {
        let reason = if unequal { "logprobs_of_another_length" } else { "no_tokens" };
        *found.refused.entry(reason.to_owned()).or_default() += 1;
        return Ok(());
    }
    found.tokenised += u64::from(!is_recorded);
    let (group_id, rollout_id) = (columns.needed("group_id", index)?, columns.needed("rollout_id", index)?);
    // Rows come sorted, so that a group and a rollout are over once another begins.
    let last = found.rows.last();
    let same_group = last.is_some_and(|last| last.group_id == group_id);
    let same_rollout = same_group && last.is_some_and(|last| last.rollout_id == rollout_id);
    let (group, rollout) =
        last.map_or((0, 0), |last| (last.group + usize::from(!same_group), last.rollout + usize::from(!same_rollout)));
    found.rows.push(Row {
        group_id: group_id.to_owned(),
        rollout_id: rollout_id.to_owned(),
        call_id: columns.needed("call_id", index)?.to_owned(),
        step: columns.number::<Int64Type>("step", index).context("a transition has a step")?,
        group,
        rollout,
        prompt,
        response,
        behaviour_logp_t: behaviour.filter(|_| !unequal),
        temperature: if imitation || temperature <= 0.0 { 1.0 } else { temperature },
        advantage: advantage.unwrap_or(0.0),
        weight: columns.number::<Float64Type>("weight", index).unwrap_or(1.0),
        outcome,
        return_value: columns.number::<Float64Type>("return_value", index),
        truncated: columns.text("finish_reason", index) == Some("length"),
        policy_version: answered_by,
    });
    Ok(())
}

/// The prompt of one LLM call.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    pub rollout_id: String,
    pub call_id: String,
    pub step: i64,
    /// At least one.
    pub ids: Vec<u32>,
}

/// The prompts of all calls of the batch, by rollout and step, and how many cannot be written with the policy's template.
pub async fn prompts(context: &Context, text: &Text) -> Result<(Vec<Prompt>, u64)> {
    let session = explain::session(context, &["derive"]).await?;
    let mut stream = session.sql(CALLS).await?.execute_stream().await?;
    let (mut prompts, mut unread) = (Vec::new(), 0);
    while let Some(batch) = stream.next().await {
        context.stop.check()?;
        let columns = Columns(batch?);
        for index in 0..columns.0.num_rows() {
            let ids = match columns.ids("prompt_token_ids", index)? {
                Some(ids) => Some(ids),
                None => render(&columns, index, text)?,
            };
            match ids.filter(|ids| !ids.is_empty()) {
                Some(ids) => prompts.push(Prompt {
                    rollout_id: columns.needed("rollout_id", index)?.to_owned(),
                    call_id: columns.needed("call_id", index)?.to_owned(),
                    step: columns.number::<Int64Type>("step", index).context("a call has a step")?,
                    ids,
                }),
                None => unread += 1,
            }
        }
    }
    Ok((prompts, unread))
}

/// The ids of a prompt that has none; `None` where the template refuses it.
fn render(columns: &Columns, index: usize, text: &Text) -> Result<Option<Vec<u32>>> {
    let Some(Value::Array(messages)) = columns.json("messages", index)? else { return Ok(None) };
    let tools = columns.tools(index)?;
    Ok(text.render(&messages, &tools, true).ok().map(|prompt| text.encode(&prompt)))
}

/// The ids of a prompt and of the response to it.
type Ids = (Vec<u32>, Vec<u32>);

/// The ids of a row that has none, as the policy's template and tokenizer make them; or why there are none to be made.
fn tokenise(columns: &Columns, index: usize, text: &Text) -> Result<Result<Ids, &'static str>> {
    let Some(Value::Array(messages)) = columns.json("messages", index)? else { return Ok(Err("no_messages")) };
    let Some(response) = columns.json("response", index)? else { return Ok(Err("no_response")) };
    let tools = columns.tools(index)?;
    // A template that refuses a conversation (two system messages, roles out of turn) refuses that row alone.
    let call = text.tokenize_call(&messages, &tools, &response);
    Ok(call.map(|call| (call.prompt, call.response)).map_err(|_| "refused_by_template"))
}

fn nothing_left(found: &Rows, config: &TrainConfig) -> String {
    let counts = |what: &str, counts: &BTreeMap<String, u64>| {
        let counts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if counts.is_empty() { String::new() } else { format!("; {what}: {}", counts.join(", ")) }
    };
    let mut message = "there is nothing to train on".to_owned();
    if found.dropped.is_empty() && found.refused.is_empty() {
        message.push_str(": the batch has no transitions");
    }
    message += &counts("dropped by credit", &found.dropped);
    message += &counts("refused by train", &found.refused);
    if found.refused.contains_key("no_behaviour_logprobs") {
        message.push_str(
            ". Rows without the sampler's log-probs need `--set train.old_logprobs=recompute`, or `train.algorithm=sft`",
        );
    } else if found.refused.contains_key("too_old_policy") {
        message += &format!(". `train.max_policy_lag` is {}", config.max_policy_lag);
    } else if ["no_variance", "singleton", "no_reward"].iter().any(|reason| found.dropped.contains_key(*reason)) {
        message.push_str(". A group whose rewards are all equal teaches nothing: sample more, or harder tasks, or begin with `train.algorithm=sft`");
    }
    message
}

/// The columns of some transitions, by name.
struct Columns(RecordBatch);

impl Columns {
    fn column(&self, name: &str, index: usize) -> Option<&arrow::array::ArrayRef> {
        self.0.column_by_name(name).filter(|column| column.is_valid(index))
    }

    fn text(&self, name: &str, index: usize) -> Option<&str> {
        self.column(name, index).and_then(|column| column.as_string_opt::<i32>()).map(|column| column.value(index))
    }

    fn needed(&self, name: &str, index: usize) -> Result<&str> {
        self.text(name, index).with_context(|| format!("a transition has no `{name}`"))
    }

    fn number<T: ArrowPrimitiveType>(&self, name: &str, index: usize) -> Option<T::Native> {
        self.column(name, index).and_then(|column| primitive::<T>(column, index))
    }

    fn list<T: ArrowPrimitiveType>(&self, name: &str, index: usize) -> Option<Vec<T::Native>> {
        let list = self.column(name, index)?.as_list_opt::<i32>()?.value(index);
        Some(list.as_primitive_opt::<T>()?.values().to_vec())
    }

    fn json(&self, name: &str, index: usize) -> Result<Option<Value>> {
        let found = self.text(name, index).map(serde_json::from_str);
        found
            .transpose()
            .with_context(|| format!("`{name}` of call `{}` is no JSON", self.text("call_id", index).unwrap_or_default()))
    }

    /// The tools that were offered.
    fn tools(&self, index: usize) -> Result<Vec<Value>> {
        match self.json("tools", index)? {
            Some(Value::Array(tools)) => Ok(tools),
            _ => Ok(Vec::new()),
        }
    }

    fn ids(&self, name: &str, index: usize) -> Result<Option<Vec<u32>>> {
        let Some(list) = self.list::<Int32Type>(name, index) else { return Ok(None) };
        let ids = list.into_iter().map(|id| u32::try_from(id).with_context(|| format!("`{name}` holds {id}, which is no token")));
        ids.collect::<Result<_>>().map(Some)
    }
}

fn primitive<T: ArrowPrimitiveType>(column: &arrow::array::ArrayRef, index: usize) -> Option<T::Native> {
    column.as_primitive_opt::<T>().filter(|column| column.is_valid(index)).map(|column| column.value(index))
}
