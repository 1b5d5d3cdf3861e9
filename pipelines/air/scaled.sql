-- air/scaled: findings as rewards, scaled down where those of a rollout come to more than the cap.
--
-- reads   air_findings, calls
-- writes  air_rewards
-- grain   rollout_id, step, rule, evidence_span_id
-- within  rollout_id
-- params  $cap Float64                -- most that the absolute values of a rollout's rewards may sum to, in units of reward
--
-- `value = weight * min(1, cap / sum |weight|)`: two rollouts whose outcomes differ by more than twice the cap keep their order.

with placed as (
    select f.rollout_id, f.call_id, coalesce(c.step, cast(-1 as bigint)) as step, f.rule, f.value, f.evidence_span_id
    from air_findings as f
    left join calls as c on c.rollout_id = f.rollout_id and c.call_id = f.call_id
),
summed as (
    select rollout_id, call_id, step, rule, value, evidence_span_id,
           sum(abs(value)) over (
               partition by rollout_id
               order by step, rule, evidence_span_id, value
               rows between unbounded preceding and unbounded following
           ) as size
    from placed
),
scaled as (
    select rollout_id, call_id, step, rule, value, evidence_span_id,
           case when size > $cap then $cap / size else cast(1 as double) end as scale
    from summed
)
select rollout_id, call_id, step, rule, value as weight, scale, value * scale as value, evidence_span_id
from scaled
