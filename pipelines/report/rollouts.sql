-- report/rollouts: what the report counts of each rollout.
--
-- reads   rollouts

select batch, rollout_id, task_id, group_id, failure_class, policy_version, reward, calls, tool_calls, tool_errors, output_tokens
from rollouts
order by batch, rollout_id
