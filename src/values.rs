//! The stage `values`: what policy N's value head expects at each LLM call of the batch, for credit's `gae`.
//!
//! A policy without a head is taken as one whose head estimates 0: so a first iteration has advantages that are plain returns, and trains a head.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use tch::Tensor;

use crate::exit::Fault;
use crate::lake::Lineage;
use crate::model::Model;
use crate::openmp;
use crate::schema;
use crate::stage::{Context, Summary};
use crate::text::Text;
use crate::train::forest::{Options, Sequence};
use crate::train::{rows, setup};

/// Writes `values`: one row for each LLM call whose prompt the policy can read.
pub async fn run(context: &Context) -> Result<Summary> {
    let started = Instant::now();
    let run = context.lake.begin("values", &context.batch).await?;
    let Some(derive) = context.lake.manifest("derive", &context.batch).await? else {
        let message = format!("`derive` has not run on batch `{}`; run `fulgurite derive` on it first", context.batch);
        return Err(Fault::Usage(message).into());
    };
    // The policy that is to be trained on this batch: what was trained on it already must not change what its values were.
    let trained = context.lake.manifest("train", &context.batch).await?;
    let parent = trained.and_then(|manifest| manifest.policy).and_then(|policy| policy.parent);
    let policy = context.lake.policy_manifest(context.config.train.policy.or(parent)).await?;
    let mut lineage = Lineage::new("values", serde_json::Value::Null)?;
    lineage.inputs = vec![derive.input(&["calls"])?, policy.input(&["policy"])?];
    let freshness = lineage.freshness(run.previous());
    if let Some(summary) = context.standing(&freshness, run.previous(), started) {
        return Ok(summary);
    }
    if let Some(summary) = context.would_run("values", &freshness) {
        return Ok(summary);
    }
    let folder = context.lake.fetch_policy(policy.policy.as_ref().context("a policy's manifest has one")?).await?;
    let text = Text::load(folder.path())?;
    let (prompts, unread) = rows::prompts(context, &text).await?;
    let values = tokio::task::block_in_place(|| estimate(context, folder.path(), &prompts));
    openmp::release();
    let values = values?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(prompts.iter().map(|prompt| prompt.rollout_id.as_str()))),
        Arc::new(StringArray::from_iter_values(prompts.iter().map(|prompt| prompt.call_id.as_str()))),
        Arc::new(Int64Array::from_iter_values(prompts.iter().map(|prompt| prompt.step))),
        Arc::new(Float64Array::from(values)),
    ];
    let mut writer = run.writer("values", 0)?;
    writer.write(&RecordBatch::try_new(Arc::clone(&schema::table("values")?.arrow), columns)?)?;
    writer.finish().await?;
    let counts = [("calls_not_read".to_owned(), unread)].into();
    Ok(Summary::of(&run.commit(lineage, counts).await?, "done", started))
}

/// The head's estimate at the last token of each prompt.
fn estimate(context: &Context, policy: &std::path::Path, prompts: &[rows::Prompt]) -> Result<Vec<f64>> {
    let config = &context.config.train;
    tch::set_num_threads(context.config.threads() as i32);
    let (device, kind) = setup::device(config)?;
    let model = Model::load(policy, device, kind)?;
    let head = setup::load_value_head(policy, &model)?;
    let is_zero = |weight: &Tensor| weight.abs().max().double_value(&[]) == 0.0;
    if is_zero(&head.weight_1d) && is_zero(&head.bias_1) {
        return Ok(vec![0.0; prompts.len()]);
    }
    let options = Options { value_head: Some(&head), ..setup::forest_options(config) };
    let sequences: Vec<Sequence> =
        prompts.iter().map(|prompt| Sequence { prompt: &prompt.ids, response: &[], temperature: 1.0 }).collect();
    Ok(setup::score(&model, &sequences, config.micro_batch_tokens, &options, &context.stop)?.value)
}
