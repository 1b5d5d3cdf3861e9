-- credit/batch_std: the total reward minus the mean of the group, over the standard deviation of the whole batch.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in its group keeps its reward as advantage (true) or has 0 (false)
--
-- The standard deviation is that of the total rewards as a sample (n - 1) over everything of one split, plus 1e-6.
-- Source: Lite PPO (Liu et al. 2025, arXiv 2508.08221), section 4.

with sums as (
    select rollout_id, split, units, total_reward,
           sum(units) over grouped as n,
           sum(units * total_reward) over grouped as total,
           min(total_reward) over grouped as lowest,
           max(total_reward) over grouped as highest,
           sum(units) over batched as batch_n,
           sum(units * total_reward) over batched as batch_total
    from scored_rollouts
    where verdict = 'compared'
    window grouped as (partition by split, group_id order by rollout_id rows between unbounded preceding and unbounded following),
           batched as (partition by split order by rollout_id rows between unbounded preceding and unbounded following)
),
centred as (
    select rollout_id, split, units, total_reward, batch_n,
           batch_total / batch_n as batch_mean,
           case when n <= 1 then cast(0 as double) else total / n end as baseline,
           case when n <= 1 then 'singleton' when lowest = highest then 'no_variance' else 'compared' end as verdict
    from sums
    where batch_n > 0
),
spread as (
    select rollout_id, total_reward, batch_n, baseline, verdict,
           sum(units * (total_reward - batch_mean) * (total_reward - batch_mean)) over batched as squares
    from centred
    window batched as (partition by split order by rollout_id rows between unbounded preceding and unbounded following)
),
judged as (
    select rollout_id, total_reward, baseline, verdict,
           case when batch_n <= 1 then cast(1 as double) else sqrt(squares / (batch_n - 1)) end + cast(0.000001 as double) as scale
    from spread
)
select rollout_id, baseline, scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then (total_reward - baseline) / scale
            else cast(0 as double) end as advantage,
       verdict
from judged
