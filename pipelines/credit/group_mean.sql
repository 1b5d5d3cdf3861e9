-- credit/group_mean: the total reward minus the mean of the group.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in its group keeps its reward as advantage (true) or has 0 (false)
--
-- Source: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), section 3.2; its length term belongs to the loss.

with sums as (
    select rollout_id, total_reward,
           sum(units) over grouped as n,
           sum(units * total_reward) over grouped as total,
           min(total_reward) over grouped as lowest,
           max(total_reward) over grouped as highest
    from scored_rollouts
    where verdict = 'compared'
    window grouped as (partition by split, group_id order by rollout_id rows between unbounded preceding and unbounded following)
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
