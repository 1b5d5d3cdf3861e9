//! Settings that give what versions of Agent Lightning give, for those who come from there.
//!
//! Both hand the last reward of a run to each of its calls (`daemon.py` of 0.3, `rollout_adapter.py` of 1.0), 0 where none was stated, and know
//! no intermediate rewards. With their default estimator, GRPO of verl, 0.3 takes mean and deviation of a group over the rows of the
//! trainer, so that a run counts as often as it asked; 1.0 over the runs. A group of one keeps its reward; groups without variance stay in
//! the batch with advantage 0. 1.0 then merges calls into rows where one goes on exactly where the one before it ended: the table `edges`.
//!
//! Left out: that both round rewards to bfloat16, cut and drop what is too long for the trainer, and drop the remainder of a mini-batch.

use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CreditConfig, Edges, EqualRewards, Level, MissingReward, Singleton, StepRewards};
use crate::exit::Fault;

/// Whose advantages are to come out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compat {
    /// Fulgurite's, as the other keys say.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Agent Lightning 0.3: statistics over rows.
    #[serde(rename = "agl-0.3")]
    Agl03,
    /// Agent Lightning 1.0: statistics over rollouts, and exact prefixes as edges.
    #[serde(rename = "agl-1.0")]
    Agl10,
}

impl Compat {
    fn as_str(self) -> &'static str {
        match self {
            Compat::None => "none",
            Compat::Agl03 => "agl-0.3",
            Compat::Agl10 => "agl-1.0",
        }
    }
}

/// The settings in force. `Fault::Usage` where the pipeline says otherwise than the version that it asks for.
pub fn settled(credit: &CreditConfig) -> Result<CreditConfig> {
    let (level, edges) = match credit.compat {
        Compat::None => return Ok(credit.clone()),
        Compat::Agl03 => (Level::Row, credit.edges),
        Compat::Agl10 => (Level::Rollout, Edges::Previous),
    };
    let settled = CreditConfig {
        method: "identical".to_owned(),
        comparison: "group_std".to_owned(),
        level: Some(level),
        singleton: Singleton::Keep,
        step_rewards: StepRewards::OutcomeOnly,
        missing_reward: MissingReward::Zero,
        equal_rewards: EqualRewards::Keep,
        edges,
        ..credit.clone()
    };
    let default = CreditConfig::default();
    let stated = [
        ("method", credit.method != default.method && credit.method != settled.method),
        ("comparison", credit.comparison != default.comparison && credit.comparison != settled.comparison),
        ("level", credit.level != default.level && credit.level != settled.level),
        ("singleton", credit.singleton != default.singleton && credit.singleton != settled.singleton),
        ("step_rewards", credit.step_rewards != default.step_rewards && credit.step_rewards != settled.step_rewards),
        ("overlong.penalty", credit.overlong.penalty != default.overlong.penalty),
        ("overlong.mask", credit.overlong.mask != default.overlong.mask),
    ];
    if let Some((key, _)) = stated.iter().find(|(_, differs)| *differs) {
        let version = credit.compat.as_str();
        let message = format!("`credit.compat = \"{version}\"` settles `credit.{key}`; leave one of the two out");
        return Err(Fault::Usage(message).into());
    }
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_settles_what_is_not_said_and_refuses_what_is() {
        let asked = CreditConfig { compat: Compat::Agl03, agents: vec!["writer".to_owned()], ..CreditConfig::default() };
        let settled_03 = settled(&asked).expect("nothing else is said");
        assert_eq!((settled_03.level, settled_03.comparison.as_str()), (Some(Level::Row), "group_std"));
        assert_eq!(settled_03.agents, asked.agents);
        assert_eq!(settled(&CreditConfig::default()).expect("nothing is asked"), CreditConfig::default());
        // The same said twice is no contradiction.
        let same = CreditConfig { comparison: "group_std".to_owned(), compat: Compat::Agl10, ..CreditConfig::default() };
        assert_eq!(settled(&same).expect("agrees").edges, Edges::Previous);
        let other = CreditConfig { comparison: "leave_one_out".to_owned(), compat: Compat::Agl10, ..CreditConfig::default() };
        let error = settled(&other).expect_err("contradicts").to_string();
        assert_eq!(error, "`credit.compat = \"agl-1.0\"` settles `credit.comparison`; leave one of the two out");
    }
}
