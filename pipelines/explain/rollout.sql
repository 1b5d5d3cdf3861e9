-- explain/rollout: one rollout in a line.
--
-- reads   rollouts
-- params  $rollout Utf8               -- rollout_id

select rollout_id, task_id, group_id, split, status, failure_class, reward, reward_source, calls, tool_calls, tool_errors
from rollouts
where rollout_id = $rollout
