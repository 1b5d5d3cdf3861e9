//! The table `train_tokens`: what each trained token got, for anyone to look at in SQL.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};

use super::TrainConfig;
use super::forest::Scores;
use super::rows::Row;
use crate::loss::{self, Clip, Denominators};
use crate::schema;
use crate::text::Text;

/// One row for each response token.
///
/// * `before`, `after`: of the policy that was trained from, and of the one that came out.
pub fn table(
    rows: &[Row],
    advantages: &[f64],
    before: &Scores,
    after: &Scores,
    config: &TrainConfig,
    text: &Text,
) -> Result<RecordBatch> {
    // Row and position of each token.
    let places: Vec<(usize, usize)> =
        rows.iter().enumerate().flat_map(|(row, of)| (0..of.response.len()).map(move |position| (row, position))).collect();
    let texts = |of: &dyn Fn(usize, usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(places.iter().map(|&(row, position)| of(row, position))))
    };
    let wholes = |of: &dyn Fn(usize, usize) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(places.iter().map(|&(row, position)| of(row, position))))
    };
    let numbers = |of: &dyn Fn(usize, usize) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(places.iter().map(|&(row, position)| of(row, position))))
    };
    let clips = clips(rows, advantages, before, after, config);
    let columns: Vec<ArrayRef> = vec![
        texts(&|row, _| rows[row].group_id.clone()),
        texts(&|row, _| rows[row].rollout_id.clone()),
        texts(&|row, _| rows[row].call_id.clone()),
        wholes(&|row, _| rows[row].step),
        wholes(&|_, position| position as i64),
        Arc::new(Int32Array::from_iter_values(places.iter().map(|&(row, position)| rows[row].response[position] as i32))),
        texts(&|row, position| text.decode(&[rows[row].response[position]])),
        numbers(&|row, position| rows[row].behaviour_logp_t.as_ref().map(|logp_t| logp_t[position])),
        numbers(&|row, position| Some(before.logp[row][position])),
        numbers(&|row, position| Some(after.logp[row][position])),
        numbers(&|row, position| Some(before.entropy[row][position])),
        numbers(&|row, _| Some(advantages[row])),
        numbers(&|row, _| Some(rows[row].weight)),
        texts(&|row, position| clips[row][position].to_owned()),
    ];
    RecordBatch::try_new(Arc::clone(&schema::table("train_tokens")?.arrow), columns).context("rows of `train_tokens`")
}

/// What the loss would do to each token if it were learnt from once more, `[rows][tokens]`.
fn clips(rows: &[Row], advantages: &[f64], before: &Scores, after: &Scores, config: &TrainConfig) -> Vec<Vec<&'static str>> {
    let inputs: Vec<loss::Row> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| loss::Row {
            logp_t: &after.logp[index],
            old_logp_t: match config.old_logprobs {
                super::OldLogprobs::Behaviour => row.behaviour_logp_t.as_deref().unwrap_or(&before.logp[index]),
                super::OldLogprobs::Recompute => &before.logp[index],
            },
            behaviour_logp_t: None,
            reference_logp_t: None,
            entropy_t: &after.entropy[index],
            advantage: advantages[index],
            weight: row.weight,
            rollout: row.rollout,
        })
        .collect();
    let denominators = Denominators::of(rows.iter().map(|row| (row.rollout, row.response.len())));
    let output = loss::evaluate(&inputs, &denominators, config.algorithm, &config.loss);
    let name = |clip| match clip {
        Clip::None => "none",
        Clip::Low => "low",
        Clip::High => "high",
        Clip::Dual => "dual",
    };
    output.slopes.into_iter().map(|slopes| slopes.clip_t.into_iter().map(name).collect()).collect()
}
