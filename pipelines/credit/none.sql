-- credit/none: no comparison: the advantage is the total reward.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- within  rollout_id

select rollout_id, cast(0 as double) as baseline, cast(1 as double) as scale, total_reward as advantage, verdict
from scored_rollouts
where verdict = 'compared'
