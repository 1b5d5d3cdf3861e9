-- credit/return_to_go_leave_one_out: the return of each call minus the mean return of the others of the group at the same step.
--
-- reads   scored_calls, scored_rollouts, discounted_sums
-- writes  estimates
-- grain   rollout_id, step
-- params  $singleton_keep Boolean     -- what is alone in its group keeps its return as advantage (true) or has 0 (false)
--
-- Rollouts of the group that have finished by then count as 0, so that the baseline does not depend on what this rollout did. A mean
-- over those still running would: ending early would then pay, or cost, by itself.

with sizes as (
    select rollout_id, cast(count(*) over (partition by split, group_id) as double) as members
    from scored_rollouts
    where verdict = 'compared'
),
placed as (
    select c.rollout_id, c.step, c.split, c.group_id, z.members, d.discounted_sum as return_value
    from scored_calls as c
    join sizes as z on z.rollout_id = c.rollout_id
    join discounted_sums as d on d.rollout_id = c.rollout_id and d.step = c.step
),
sums as (
    select rollout_id, step, members, return_value,
           sum(return_value) over stepwise as total,
           cast(count(*) over stepwise as double) as running,
           min(return_value) over stepwise as lowest,
           max(return_value) over stepwise as highest
    from placed
    window stepwise as (
        partition by split, group_id, step order by rollout_id
        rows between unbounded preceding and unbounded following
    )
),
judged as (
    select rollout_id, step, return_value,
           case when members <= 1 then cast(0 as double) else (total - return_value) / (members - 1) end as baseline,
           case when members <= 1 then 'singleton'
                when lowest = highest and (running = members or highest = 0) then 'no_variance'
                else 'compared' end as verdict
    from sums
)
select rollout_id, step, return_value, baseline, cast(1 as double) as scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then return_value - baseline
            else cast(0 as double) end as advantage,
       verdict
from judged
