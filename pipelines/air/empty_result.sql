-- air/empty_result: a tool call that did not fail brought nothing back.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- Weighs nothing unless told otherwise: an empty answer can be the right one.

select t.rollout_id, t.call_id, w.rule, w.weight as value, t.span_id as evidence_span_id
from tool_calls as t
join air_weights as w on w.rule = 'empty_result'
where t.result_empty and t.status not in ('error', 'control') and t.call_id is not null
