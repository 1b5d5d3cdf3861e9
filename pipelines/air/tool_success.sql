-- air/tool_success: a tool call succeeded.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- Weighs nothing unless told otherwise: an agent that is paid for every success learns to call tools in circles.

select t.rollout_id, t.call_id, w.rule, w.weight as value, t.span_id as evidence_span_id
from tool_calls as t
join air_weights as w on w.rule = 'tool_success'
where t.status = 'ok' and t.call_id is not null
