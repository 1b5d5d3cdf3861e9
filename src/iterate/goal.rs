//! When a loop has reached what it was started for: `eval.reward=0.9`.

use std::fmt;
use std::str::FromStr;

use crate::eval::Scores;

/// A score and the value that it has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    what: What,
    value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    EvalReward,
    EvalGreedy,
    EvalPass,
    Reward,
}

const NAMES: [(&str, What); 4] = [
    ("eval.reward", What::EvalReward),
    ("eval.greedy", What::EvalGreedy),
    ("eval.pass_at_k", What::EvalPass),
    ("reward", What::Reward),
];

impl Goal {
    pub fn met_by_eval(&self, scores: &Scores) -> bool {
        let found = match self.what {
            What::EvalReward => scores.sampled.map(|mean| mean.mean),
            What::EvalGreedy => scores.greedy.map(|mean| mean.mean),
            What::EvalPass => scores.pass_at_k,
            What::Reward => None,
        };
        found.is_some_and(|found| found >= self.value)
    }

    /// * `reward`: mean reward of an iteration's rollouts.
    pub fn met_by_rollouts(&self, reward: Option<f64>) -> bool {
        self.what == What::Reward && reward.is_some_and(|reward| reward >= self.value)
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        let parts = text.split_once('=').and_then(|(name, value)| {
            let (_, what) = NAMES.into_iter().find(|(known, _)| *known == name.trim())?;
            let value = value.trim().parse().ok().filter(|value: &f64| value.is_finite())?;
            Some(Goal { what, value })
        });
        parts.ok_or_else(|| {
            format!(
                "`{text}` is no goal; write such as `eval.reward=0.9`, with one of {}",
                NAMES.map(|(name, _)| name).join(", ")
            )
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, what)| *what == self.what).map_or("", |(name, _)| name);
        write!(f, "{name} is at least {}", self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::mean;

    #[test]
    fn a_goal_is_met_by_its_own_score_alone() {
        let scores = Scores { sampled: mean(&[0.8, 1.0]), greedy: mean(&[0.5, 0.5]), pass_at_k: Some(0.95), ..Scores::default() };
        for (text, by_eval, by_rollouts) in [
            ("eval.reward=0.9", true, false),
            ("eval.reward = 0.91", false, false),
            ("eval.greedy=0.5", true, false),
            ("eval.pass_at_k=0.96", false, false),
            ("reward=0.7", false, true),
        ] {
            let goal: Goal = text.parse().unwrap();
            assert_eq!((goal.met_by_eval(&scores), goal.met_by_rollouts(Some(0.75))), (by_eval, by_rollouts), "{text}");
        }
        for wrong in ["eval.reward", "eval.rewards=1", "reward=x", "=1", "reward=NaN"] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
        }
    }
}
