-- air/recovery: a tool succeeded after it had failed in an earlier step.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- One finding ends each streak of failures of a tool, at the first later step in which the tool succeeds. A success beside
-- the failure, in the same step, is no recovery: the model had not seen the failure. The value is the weight, but at most
-- what `tool_error` took for the streak, so that failing on purpose and recovering earns nothing.

with failures as (
    select rollout_id, name, step, count(*) as errors
    from tool_calls
    where status = 'error' and name is not null and step is not null and call_id is not null
    group by rollout_id, name, step
),
ended as (
    select f.rollout_id, f.name, f.errors, min(s.step) as step
    from failures as f
    join tool_calls as s on s.rollout_id = f.rollout_id and s.name = f.name and s.step > f.step
    where s.status = 'ok' and s.call_id is not null
    group by f.rollout_id, f.name, f.step, f.errors
),
streaks as (
    select rollout_id, name, step, sum(errors) as errors
    from ended
    group by rollout_id, name, step
),
successes as (
    select k.rollout_id, k.errors, min(s.seq) as seq
    from streaks as k
    join tool_calls as s on s.rollout_id = k.rollout_id and s.name = k.name and s.step = k.step
    where s.status = 'ok' and s.call_id is not null
    group by k.rollout_id, k.name, k.step, k.errors
),
costs as (
    select greatest(-weight, cast(0 as double)) as cost
    from air_weights
    where rule = 'tool_error'
)
select t.rollout_id, t.call_id, w.rule,
       least(w.weight, cast(s.errors as double) * c.cost) as value,
       t.span_id as evidence_span_id
from successes as s
join tool_calls as t on t.rollout_id = s.rollout_id and t.seq = s.seq
join air_weights as w on w.rule = 'recovery'
cross join costs as c
