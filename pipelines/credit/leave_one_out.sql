-- credit/leave_one_out: the total reward minus the mean of the others of the group.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in its group keeps its reward as advantage (true) or has 0 (false)
--
-- At level transition the others are all calls but the one, those of its own rollout too.
-- Source: RLOO (Ahmadian et al. 2024, arXiv 2402.14740), eq. 8.

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
           case when n <= 1 then cast(0 as double) else (total - total_reward) / (n - 1) end as baseline,
           case when n <= 1 then 'singleton' when lowest = highest then 'no_variance' else 'compared' end as verdict
    from sums
)
select rollout_id, baseline, cast(1 as double) as scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then total_reward - baseline
            else cast(0 as double) end as advantage,
       verdict
from judged
