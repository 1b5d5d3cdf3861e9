-- air/potential: findings as the shaping of a potential, which leaves the best policy what it was.
--
-- reads   air_findings, calls
-- writes  air_rewards
-- grain   rollout_id, step, rule, evidence_span_id
-- within  rollout_id
-- params  $cap Float64                -- bound of the potential, in units of reward
--         $gamma Float64              -- discount per call, that of credit, 0 to 1
--
-- `F_t = gamma * phi_{t+1} - phi_t`, `phi_t` the sum of what was found before call t, clipped to [-cap, cap], and 0 after the
-- last call. The discounted sum of F over a rollout is 0, so that with identical credit and gamma 1 it cancels altogether: use it
-- with `return_to_go`, `state_group` or `gae`. Calls whose F is 0 have no row.
--
-- Source: Ng, Harada and Russell, Policy Invariance Under Reward Transformations, ICML 1999, theorem 1.

with placed as (
    select f.rollout_id, f.call_id, coalesce(c.step, cast(-1 as bigint)) as step, f.rule, f.value, f.evidence_span_id
    from air_findings as f
    left join calls as c on c.rollout_id = f.rollout_id and c.call_id = f.call_id
),
summed as (
    select rollout_id, step,
           sum(value) over (
               partition by rollout_id, step
               order by rule, evidence_span_id, value
               rows between unbounded preceding and unbounded following
           ) as found,
           cast(row_number() over (partition by rollout_id, step order by rule, evidence_span_id, value) as bigint) as place
    from placed
),
found_in as (
    select distinct rollout_id
    from placed
),
sequence as (
    select c.rollout_id, c.call_id, c.step, coalesce(s.found, cast(0 as double)) as found
    from calls as c
    join found_in as i on i.rollout_id = c.rollout_id
    left join summed as s on s.rollout_id = c.rollout_id and s.step = c.step and s.place = 1
),
before as (
    select rollout_id, call_id, step,
           coalesce(sum(found) over (
               partition by rollout_id order by step
               rows between unbounded preceding and 1 preceding
           ), cast(0 as double)) as found_before
    from sequence
),
potentials as (
    select rollout_id, call_id, step, greatest(cast(-1 as double) * $cap, least($cap, found_before)) as phi
    from before
),
shaped as (
    select rollout_id, call_id, step,
           $gamma * coalesce(lead(phi) over (partition by rollout_id order by step), cast(0 as double)) - phi as shaping
    from potentials
),
together as (
    select rollout_id, call_id, step, rule, value as weight, cast(0 as double) as scale, cast(0 as double) as value, evidence_span_id
    from placed
    union all
    select rollout_id, call_id, step, 'potential' as rule, shaping as weight, cast(1 as double) as scale, shaping as value,
           cast(null as text) as evidence_span_id
    from shaped
    where shaping <> 0
)
select rollout_id, call_id, step, rule, weight, scale, value, evidence_span_id
from together
