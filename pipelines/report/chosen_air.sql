-- report/chosen_air: what the rules found in the rollouts that are shown, with the span that shows it.
--
-- reads   air_rewards, chosen, spans, tool_calls

with shown as (
    select s.batch, s.rollout_id, s.span_id, s.kind, s.name, coalesce(s.status_message, s.error_type) as message
    from spans as s
    join chosen as c on c.batch = s.batch and c.rollout_id = s.rollout_id
    where s.kind not in ('llm', 'tool', 'tool_request')
)
select a.batch, a.rollout_id, a.call_id, a.step, a.rule, a.weight, a.scale, a.value, a.evidence_span_id as span,
       t.name as tool, t.arguments, coalesce(t.error, t.result) as answer, s.kind as span_kind, s.name as span_name,
       s.message as span_message
from air_rewards as a
join chosen as c on c.batch = a.batch and c.rollout_id = a.rollout_id
left join tool_calls as t on t.batch = a.batch and t.rollout_id = a.rollout_id and t.span_id = a.evidence_span_id
left join shown as s on s.batch = a.batch and s.rollout_id = a.rollout_id and s.span_id = a.evidence_span_id
