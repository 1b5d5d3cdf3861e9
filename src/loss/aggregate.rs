//! How the losses of tokens become one number, with denominators of the whole step.

use serde::{Deserialize, Serialize};

/// What each token's loss is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "lake", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The tokens of the step: every token counts the same (DAPO).
    #[default]
    TokenMean,
    /// The row's tokens times the rows of the step: every call counts the same, and a token of a short one more (GRPO).
    SequenceMean,
    /// A constant times the rows of the step: no length is preferred (Dr.GRPO).
    Constant,
    /// The tokens of the row's rollout times the rollouts of the step: every rollout counts the same, however many calls it has.
    PerRolloutMean,
}

/// What the means of one step divide by, counted over all its rows whatever micro-batch they are in. Tokens that a correction takes out
/// are counted all the same, or taking tokens out would make the rest of the gradient larger.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Denominators {
    tokens: f64,
    rows: f64,
    rollouts: f64,
    /// By rollout index.
    tokens_of_rollout: Vec<f64>,
}

impl Denominators {
    /// * `rows`: for each row of the step, the index of its rollout and how many response tokens it has.
    pub fn of(rows: impl IntoIterator<Item = (usize, usize)>) -> Denominators {
        let mut counted = Denominators::default();
        for (rollout, tokens) in rows {
            if counted.tokens_of_rollout.len() <= rollout {
                counted.tokens_of_rollout.resize(rollout + 1, 0.0);
            }
            counted.rows += 1.0;
            counted.tokens += tokens as f64;
            counted.tokens_of_rollout[rollout] += tokens as f64;
        }
        counted.rollouts = counted.tokens_of_rollout.iter().filter(|tokens| **tokens > 0.0).count() as f64;
        counted
    }

    /// What the loss of a token is multiplied by. No count is taken as less than 1.
    pub(super) fn scale(&self, aggregation: Aggregation, constant_tokens: Option<f64>, rollout: usize, row_tokens: usize) -> f64 {
        let denominator = match aggregation {
            Aggregation::TokenMean => self.tokens,
            Aggregation::SequenceMean => self.rows * row_tokens as f64,
            Aggregation::Constant => self.rows * constant_tokens.unwrap_or(1.0),
            Aggregation::PerRolloutMean => self.rollouts * self.tokens_of_rollout.get(rollout).copied().unwrap_or(0.0),
        };
        denominator.max(1.0).recip()
    }
}
