-- air/slow_tool: a tool call took longer than it should.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
-- params  $slow_tool_ms Float64       -- milliseconds that a tool call may take

select t.rollout_id, t.call_id, w.rule, w.weight as value, t.span_id as evidence_span_id
from tool_calls as t
join air_weights as w on w.rule = 'slow_tool'
where t.latency_ms > $slow_tool_ms and t.call_id is not null
