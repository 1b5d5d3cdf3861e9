//! Which optimiser states stay in the lake: twice as large as a policy each, and read only where training goes on from that policy.
//!
//! Within a run nothing says which step is the best: its rows are the same at every step. So the best is looked for among policies, by what
//! their own rollouts earned.

use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::OPTIMISER;
use crate::engine;
use crate::lake::{DataFile, Manifest};
use crate::schema;
use crate::stage::Context;

/// What the steps of a training are in the lake.
const STEPS: &str = "train_steps";

/// The policy whose rollouts earned most on average; of several the newest. What a training calls its reward is that of the policy it began with,
/// but for imitation, whose rows may be anyone's.
const BEST: &str = "select policy_version - 1 as version from train_steps \
     where reward_mean is not null and rollouts > 0 and epoch = 0 and algorithm <> 'sft' \
     group by policy_version order by sum(reward_mean * rollouts) / sum(rollouts) desc, policy_version desc limit 1";

/// Lets the optimiser states go of all policies but the `train.keep_states` newest and the best that still has one. Returns how many went.
pub async fn prune(context: &Context) -> Result<u64> {
    let keep = context.config.train.keep_states.max(1);
    let policies = context.lake.policy_manifests().await?;
    let with_state: Vec<&Manifest> = policies.iter().filter(|manifest| manifest.states.contains_key(OPTIMISER)).collect();
    let old = with_state.len().saturating_sub(keep);
    if old == 0 {
        return Ok(0);
    }
    let best = best(context, &policies, &with_state).await?;
    let mut dropped = 0;
    for manifest in &with_state[..old] {
        if manifest.policy_version() != best {
            context.lake.drop_states(&manifest.stage, &manifest.batch).await?;
            dropped += 1;
        }
    }
    Ok(dropped)
}

/// The version of the best of some policies, where anything was trained from one of them.
async fn best(context: &Context, policies: &[Manifest], among: &[&Manifest]) -> Result<Option<u64>> {
    let among: Vec<Option<u64>> = among.iter().map(|manifest| manifest.policy_version()).collect();
    let parent = |manifest: &Manifest| manifest.policy.as_ref().and_then(|policy| policy.parent);
    let children = policies.iter().filter(|manifest| parent(manifest).is_some_and(|parent| among.contains(&Some(parent))));
    let steps = children.filter_map(|manifest| manifest.tables.get(STEPS));
    let files: Vec<DataFile> = steps.flat_map(|steps| steps.files.clone()).collect();
    let session = engine::session(&context.config, &context.lake)?;
    session.register_table(STEPS, engine::lake_table(schema::table(STEPS)?, &files)?)?;
    let found = session.sql(BEST).await?.collect().await?;
    let version = found.iter().find(|rows| rows.num_rows() > 0).map(|rows| rows.column(0).as_primitive::<Int64Type>().value(0));
    Ok(version.and_then(|version| u64::try_from(version).ok()))
}
