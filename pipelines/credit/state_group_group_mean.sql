-- credit/state_group_group_mean: the rollout's advantage, plus what each call's return is worth among calls in the same state.
--
-- reads   scored_calls, comparisons, discounted_sums
-- writes  estimates
-- grain   rollout_id, step
-- params  $omega Float64              -- weight of the state's part, 0 or more
--
-- `A_i + omega * S_it`, `S_it` the return minus their mean, over all calls of the group with the same
-- `observation_hash`, those of one rollout too. A call that is alone in its state has S = 0. `baseline` and `scale` are those of S.
--
-- Source: GiGPO (Feng et al. 2025, arXiv 2505.10978), eq. 8, with F = 1.

with placed as (
    select c.rollout_id, c.step, c.split, c.group_id, c.observation_hash,
           m.advantage as rollout_advantage, m.verdict, d.discounted_sum as return_value
    from scored_calls as c
    join comparisons as m on m.rollout_id = c.rollout_id
    join discounted_sums as d on d.rollout_id = c.rollout_id and d.step = c.step
),
sums as (
    select rollout_id, step, rollout_advantage, verdict, return_value,
           case when observation_hash is null then cast(1 as double) else cast(count(*) over visits as double) end as n,
           sum(return_value) over visits as total,
           min(return_value) over visits as lowest,
           max(return_value) over visits as highest
    from placed
    window visits as (
        partition by split, group_id, observation_hash order by rollout_id, step
        rows between unbounded preceding and unbounded following
    )
),
scaled as (
    select rollout_id, step, rollout_advantage, verdict, return_value, n, lowest, highest,
           case when n <= 1 then cast(0 as double) else total / n end as baseline,
           cast(1 as double) as scale
    from sums
),
judged as (
    select rollout_id, step, rollout_advantage, verdict, return_value, baseline, scale,
           case when n <= 1 or lowest = highest then cast(0 as double) else (return_value - baseline) / scale end as state_advantage
    from scaled
)
select rollout_id, step, return_value, baseline, scale,
       rollout_advantage + $omega * state_advantage as advantage,
       case when state_advantage = 0 then verdict else 'compared' end as verdict
from judged
