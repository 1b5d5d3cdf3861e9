-- credit/best_of: 1 for the best of the group, 0 for the others.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in its group is its best (true) or has 0 (false)
--
-- Several that are equally good all have 1. In a group of equals nobody is best, and all have 0. This is rejection sampling, for SFT.

with sums as (
    select rollout_id, total_reward,
           sum(units) over grouped as n,
           min(total_reward) over grouped as lowest,
           max(total_reward) over grouped as highest
    from scored_rollouts
    where verdict = 'compared'
    window grouped as (partition by split, group_id order by rollout_id rows between unbounded preceding and unbounded following)
),
judged as (
    select rollout_id, total_reward, highest,
           case when n <= 1 then 'singleton' when lowest = highest then 'no_variance' else 'compared' end as verdict
    from sums
)
select rollout_id, highest as baseline, cast(1 as double) as scale,
       cast(case when verdict = 'compared' and total_reward = highest then 1
                 when verdict = 'singleton' and $singleton_keep then 1
                 else 0 end as double) as advantage,
       verdict
from judged
