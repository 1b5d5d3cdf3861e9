-- air/recovery: a tool succeeded after it had failed in an earlier step.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
--
-- One finding ends each streak of failures of a tool, at the first later step in which the tool succeeds. A success beside
-- the failure, in the same step, is no recovery: the model had not seen the failure. The value is the weight, but at most
-- what `tool_error` took for the streak, so that failing on purpose and recovering earns nothing.

with steps as (
    select rollout_id, name, step, min(call_id) as call_id,
           count(case when status = 'error' then 1 end) as errors,
           count(case when status = 'ok' then 1 end) as successes
    from tool_calls
    where step is not null and call_id is not null and name is not null and status in ('ok', 'error')
    group by rollout_id, name, step
),
streaks as (
    select rollout_id, name, step, call_id, errors, successes,
           cast(coalesce(sum(case when successes > 0 then 1 else 0 end) over (
               partition by rollout_id, name order by step
               rows between unbounded preceding and 1 preceding
           ), 0) as bigint) as streak
    from steps
),
failures as (
    select rollout_id, name, errors,
           streak + case when successes > 0 then 1 else 0 end as streak
    from streaks
    where errors > 0
),
lost as (
    select rollout_id, name, streak, cast(sum(errors) as bigint) as errors
    from failures
    group by rollout_id, name, streak
),
first_successes as (
    select rollout_id, name, step, min(seq) as seq
    from tool_calls
    where step is not null and call_id is not null and status = 'ok'
    group by rollout_id, name, step
),
shown as (
    select f.rollout_id, f.name, f.step, t.span_id
    from first_successes as f
    join tool_calls as t on t.rollout_id = f.rollout_id and t.seq = f.seq
),
costs as (
    select greatest(-weight, cast(0 as double)) as cost
    from air_weights
    where rule = 'tool_error'
)
select s.rollout_id, s.call_id, w.rule,
       least(w.weight, cast(l.errors as double) * c.cost) as value,
       e.span_id as evidence_span_id
from streaks as s
join lost as l on l.rollout_id = s.rollout_id and l.name = s.name and l.streak = s.streak
join shown as e on e.rollout_id = s.rollout_id and e.name = s.name and e.step = s.step
join air_weights as w on w.rule = 'recovery'
cross join costs as c
where s.successes > 0
