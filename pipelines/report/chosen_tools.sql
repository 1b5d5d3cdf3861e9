-- report/chosen_tools: the tool calls of the rollouts that are shown.
--
-- reads   chosen, tool_calls

select t.batch, t.rollout_id, t.seq, t.call_id, t.name, t.tool_call_id, t.arguments, t.result, t.status, t.status_evidence, t.error,
       t.latency_ms
from tool_calls as t
join chosen as c on c.batch = t.batch and c.rollout_id = t.rollout_id
