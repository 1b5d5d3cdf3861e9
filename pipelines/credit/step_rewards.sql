-- credit/step_rewards: the rewards that single calls earned: those stated in the trace and those found by `air`.
--
-- reads   rewards, reward_weights, air_rewards
-- writes  step_rewards
-- grain   rollout_id, call_id
-- within  rollout_id
-- params  $add_air Boolean            -- whether what `air` found counts
--         $add_stated Boolean         -- whether rewards stated for a call count, beside the outcome
--
-- A stated reward that is the outcome of its dimension is in `rollouts.reward` already. Dimensions weigh what they weigh in the outcome;
-- where no weights are set, the dimension counts that the outcome is of. Calls that earned nothing have no row.
-- Two numbers have the same sum in either order; more are added in one that does not depend on the order of rows.

with set_weights as (
    select count(*) as weights
    from reward_weights
),
outcomes as (
    select rollout_id, name,
           cast(row_number() over (
               partition by rollout_id
               order by case when is_primary then 0 else 1 end, seq desc, name
           ) as bigint) as place
    from rewards
    where is_outcome
),
stated as (
    select r.rollout_id, r.call_id, 'stated' as origin, r.reward_id as item, '' as evidence,
           r.value * coalesce(w.weight, cast(1 as double)) as value
    from rewards as r
    cross join set_weights as s
    left join reward_weights as w on w.name = r.name
    left join outcomes as o on o.rollout_id = r.rollout_id and o.place = 1
    where $add_stated and r.call_id is not null and not r.is_outcome and r.value is not null
      and (w.weight is not null or (s.weights = 0 and o.name = r.name))
),
found as (
    select rollout_id, call_id, 'air' as origin, rule as item, coalesce(evidence_span_id, '') as evidence, value
    from air_rewards
    where $add_air and value <> 0
),
together as (
    select rollout_id, call_id, origin, item, evidence, value from stated
    union all
    select rollout_id, call_id, origin, item, evidence, value from found
),
summed as (
    select rollout_id, call_id, sum(value) as step_reward, count(*) as items
    from together
    group by rollout_id, call_id
),
ordered as (
    select t.rollout_id, t.call_id,
           sum(t.value) over (
               partition by t.rollout_id, t.call_id
               order by t.origin, t.item, t.evidence, t.value
               rows between unbounded preceding and unbounded following
           ) as step_reward,
           cast(row_number() over (
               partition by t.rollout_id, t.call_id
               order by t.origin, t.item, t.evidence, t.value
           ) as bigint) as place
    from summed as s
    join together as t on t.rollout_id = s.rollout_id and t.call_id = s.call_id
    where s.items > 2
)
select rollout_id, call_id, step_reward
from summed
where items <= 2
union all
select rollout_id, call_id, step_reward
from ordered
where place = 1
