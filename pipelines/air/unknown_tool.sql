-- air/unknown_tool: the model called a tool that it was not offered.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- Where the trace does not say what was offered, `offered` is null and nothing is found.

select t.rollout_id, t.call_id, w.rule, w.weight as value, t.span_id as evidence_span_id
from tool_calls as t
join air_weights as w on w.rule = 'unknown_tool'
where not t.offered and t.call_id is not null
