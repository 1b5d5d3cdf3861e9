-- air/malformed_arguments: the arguments of a tool call do not parse as a JSON object.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- Counts beside `tool_error` where the tool failed for it: the mistake was the model's own, and cost a call.

select t.rollout_id, t.call_id, w.rule, w.weight as value, t.span_id as evidence_span_id
from tool_calls as t
join air_weights as w on w.rule = 'malformed_arguments'
where not t.arguments_valid and t.call_id is not null
