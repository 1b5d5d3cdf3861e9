-- explain/air: every call of a rollout, with what the rules found in it and the span that shows it.
--
-- reads   calls, air_rewards, tool_calls, spans
-- params  $rollout Utf8               -- rollout_id

with tools as (
    select rollout_id, span_id, name, arguments, coalesce(error, result) as answer
    from tool_calls
    where rollout_id = $rollout
),
shown as (
    select rollout_id, span_id, kind, name, coalesce(status_message, error_type) as message
    from spans
    where rollout_id = $rollout and kind not in ('llm', 'tool', 'tool_request')
),
found as (
    select rollout_id, step, rule, weight, scale, value, evidence_span_id
    from air_rewards
    where rollout_id = $rollout
)
select c.step, c.agent, c.response, c.finish_reason, c.error, f.rule, f.weight, f.scale, f.value, f.evidence_span_id,
       t.name as tool, t.arguments, t.answer, s.kind as span_kind, s.name as span_name, s.message as span_message
from calls as c
left join found as f on f.rollout_id = c.rollout_id and f.step = c.step
left join tools as t on t.rollout_id = c.rollout_id and t.span_id = f.evidence_span_id
left join shown as s on s.rollout_id = c.rollout_id and s.span_id = f.evidence_span_id
where c.rollout_id = $rollout
order by c.step, f.rule, f.evidence_span_id
