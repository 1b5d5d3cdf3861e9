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

with steps as (
    select rollout_id, name, step, min(call_id) as call_id,
           count(case when status = 'error' then 1 end) as errors,
           min(case when status = 'ok' then seq end) as success_seq
    from tool_calls
    where step is not null and call_id is not null and name is not null and status in ('ok', 'error')
    group by rollout_id, name, step
),
failures as (
    select rollout_id, name, step, call_id, success_seq,
           cast(coalesce(sum(errors) over (
               partition by rollout_id, name order by step
               rows between unbounded preceding and 1 preceding
           ), 0) as bigint) as errors_before
    from steps
),
successes as (
    select rollout_id, name, step, call_id, success_seq,
           errors_before - coalesce(lag(errors_before) over (partition by rollout_id, name order by step), 0) as errors
    from failures
    where success_seq is not null
),
costs as (
    select greatest(-weight, cast(0 as double)) as cost
    from air_weights
    where rule = 'tool_error'
)
select s.rollout_id, s.call_id, w.rule,
       least(w.weight, cast(s.errors as double) * c.cost) as value,
       t.span_id as evidence_span_id
from successes as s
join tool_calls as t on t.rollout_id = s.rollout_id and t.seq = s.success_seq
join air_weights as w on w.rule = 'recovery'
cross join costs as c
where s.errors > 0
