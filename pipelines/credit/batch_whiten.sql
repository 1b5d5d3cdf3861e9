-- credit/batch_whiten: the total reward minus the mean of the group, whitened over the whole batch.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in its group goes in with its whole reward (true) or stays out with 0 (false)
--
-- `(c - mean) / sqrt(var + 1e-8)` of the centred rewards `c = R - mean of the group's rollouts`, the variance that of a sample, the
-- mean over n + 1e-8, as in verl's masked whitening. The level says what the whitening counts; the mean of the group is over rollouts
-- at either level. Where every rollout is alone in its group and singletons are kept, this is REINFORCE++ without a baseline.
--
-- Source: REINFORCE++ (Hu et al. 2025, arXiv 2501.03262), the variant with baseline.

with sums as (
    select rollout_id, split, units, total_reward,
           cast(count(*) over grouped as double) as n,
           sum(total_reward) over grouped as total,
           min(total_reward) over grouped as lowest,
           max(total_reward) over grouped as highest
    from scored_rollouts
    where verdict = 'compared'
    window grouped as (partition by split, group_id order by rollout_id rows between unbounded preceding and unbounded following)
),
centred as (
    select rollout_id, split, total_reward,
           case when n <= 1 then cast(0 as double) else total / n end as group_mean,
           case when n <= 1 and $singleton_keep then total_reward
                when n <= 1 or lowest = highest then cast(0 as double)
                else total_reward - total / n end as centred,
           case when n <= 1 and not $singleton_keep then cast(0 as double) else units end as units,
           case when n <= 1 then 'singleton' else 'compared' end as verdict
    from sums
),
counted as (
    select rollout_id, split, units, group_mean, centred, verdict,
           sum(units) over batched as n,
           sum(units * centred) over batched as total,
           min(centred) over batched as lowest,
           max(centred) over batched as highest
    from centred
    window batched as (partition by split order by rollout_id rows between unbounded preceding and unbounded following)
),
means as (
    select rollout_id, split, units, group_mean, centred, n,
           case when n <= 1 then cast(0 as double) else total / (n + cast(0.00000001 as double)) end as batch_mean,
           case when n <= 1 then 'singleton'
                when verdict = 'compared' and lowest = highest then 'no_variance'
                else verdict end as verdict
    from counted
),
spread as (
    select rollout_id, group_mean, centred, verdict, n, batch_mean,
           sum(units * (centred - batch_mean) * (centred - batch_mean)) over batched as squares
    from means
    window batched as (partition by split order by rollout_id rows between unbounded preceding and unbounded following)
),
judged as (
    select rollout_id, group_mean, centred, batch_mean, verdict,
           case when n <= 1 then cast(1 as double)
                else sqrt(squares / (n + cast(0.00000001 as double)) * (n / (n - 1)) + cast(0.00000001 as double)) end as scale
    from spread
)
select rollout_id, group_mean + batch_mean as baseline, scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then (centred - batch_mean) / scale else cast(0 as double) end as advantage,
       verdict
from judged
