//! Which optimiser states stay in the lake: twice as large as a policy each, and read only where training goes on from that policy.
//!
//! Within a run nothing says which step is the best: its rows are the same at every step. So the best is looked for among policies, by what
//! their own rollouts earned.

use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::OPTIMISER;
use crate::engine;
use crate::lake::DataFile;
use crate::schema;
use crate::stage::Context;

/// The policy whose rollouts earned most on average; of several the newest. What a training calls its reward is that of the policy it began with,
/// but for imitation, whose rows may be anyone's.
const BEST: &str = "select policy_version - 1 as version from train_steps \
     where reward_mean is not null and rollouts > 0 and epoch = 0 and algorithm <> 'sft' \
     group by policy_version order by sum(reward_mean * rollouts) / sum(rollouts) desc, policy_version desc limit 1";

/// Lets the optimiser states go of all policies but the `train.keep_states` newest and the best. Returns how many went.
pub async fn prune(context: &Context) -> Result<u64> {
    let keep = context.config.train.keep_states.max(1);
    let mut with_state = context.lake.policy_manifests().await?;
    with_state.retain(|manifest| manifest.states.contains_key(OPTIMISER));
    let old = with_state.len().saturating_sub(keep);
    if old == 0 {
        return Ok(0);
    }
    let best = best(context).await?;
    let mut dropped = 0;
    for manifest in &with_state[..old] {
        if manifest.policy.as_ref().map(|policy| policy.version) != best {
            context.lake.drop_states(&manifest.stage, &manifest.batch).await?;
            dropped += 1;
        }
    }
    Ok(dropped)
}

async fn best(context: &Context) -> Result<Option<u64>> {
    let session = engine::session(&context.config, &context.lake)?;
    let batches = context.lake.files("train_steps", None).await?;
    let files: Vec<DataFile> = batches.into_iter().flat_map(|batch| batch.files).collect();
    session.register_table("train_steps", engine::lake_table(schema::table("train_steps")?, &files)?)?;
    let found = session.sql(BEST).await?.collect().await?;
    let version = found.iter().find(|rows| rows.num_rows() > 0).map(|rows| rows.column(0).as_primitive::<Int64Type>().value(0));
    Ok(version.and_then(|version| u64::try_from(version).ok()))
}
