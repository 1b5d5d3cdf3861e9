-- credit/batch_mean: the total reward minus the mean of the whole batch, for production traces that have no groups.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in the batch keeps its reward as advantage (true) or has 0 (false)
--
-- Tasks of different difficulty are held against each other: prefer groups wherever a task was run more than once.

with sums as (
    select rollout_id, total_reward,
           sum(units) over batched as n,
           sum(units * total_reward) over batched as total,
           min(total_reward) over batched as lowest,
           max(total_reward) over batched as highest
    from scored_rollouts
    where verdict = 'compared'
    window batched as (partition by split order by rollout_id rows between unbounded preceding and unbounded following)
),
judged as (
    select rollout_id, total_reward,
           case when n <= 1 then cast(0 as double) else total / n end as baseline,
           case when n <= 1 then 'singleton' when lowest = highest then 'no_variance' else 'compared' end as verdict
    from sums
)
select rollout_id, baseline, cast(1 as double) as scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then total_reward - baseline
            else cast(0 as double) end as advantage,
       verdict
from judged
