-- air/tool_error: a tool call failed.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- `status` comes from the ladder of evidence of ingest: a handoff or an interrupt is `control`, and no failure.

select t.rollout_id, t.call_id, w.rule, w.weight as value, t.span_id as evidence_span_id
from tool_calls as t
join air_weights as w on w.rule = 'tool_error'
where t.status = 'error' and t.call_id is not null
