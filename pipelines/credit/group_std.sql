-- credit/group_std: the total reward minus the mean of the group, over its standard deviation.
--
-- reads   scored_rollouts
-- writes  comparisons
-- grain   rollout_id
-- params  $singleton_keep Boolean     -- what is alone in its group keeps its reward as advantage (true) or has 0 (false)
--
-- `(R - mean) / (std + 1e-6)`, the standard deviation that of a sample (n - 1), as verl has it; what is kept alone is over 1 + 1e-6.
-- Source: GRPO (Shao et al. 2024, arXiv 2402.03300), section 4.1.2.

with sums as (
    select rollout_id, split, group_id, units, total_reward,
           sum(units) over grouped as n,
           sum(units * total_reward) over grouped as total,
           min(total_reward) over grouped as lowest,
           max(total_reward) over grouped as highest
    from scored_rollouts
    where verdict = 'compared'
    window grouped as (partition by split, group_id order by rollout_id rows between unbounded preceding and unbounded following)
),
centred as (
    select rollout_id, split, group_id, units, total_reward, n,
           case when n <= 1 then cast(0 as double) else total / n end as baseline,
           case when n <= 1 then 'singleton' when lowest = highest then 'no_variance' else 'compared' end as verdict
    from sums
),
spread as (
    select rollout_id, total_reward, n, baseline, verdict,
           sum(units * (total_reward - baseline) * (total_reward - baseline)) over grouped as squares
    from centred
    window grouped as (partition by split, group_id order by rollout_id rows between unbounded preceding and unbounded following)
),
judged as (
    select rollout_id, total_reward, baseline, verdict,
           case when n <= 1 then cast(1 as double) else sqrt(squares / (n - 1)) end + cast(0.000001 as double) as scale
    from spread
)
select rollout_id, baseline, scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then (total_reward - baseline) / scale
            else cast(0 as double) end as advantage,
       verdict
from judged
