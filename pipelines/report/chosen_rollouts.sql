-- report/chosen_rollouts: the rollouts that are shown whole.
--
-- reads   chosen, rollouts

select r.batch, r.rollout_id, r.task_id, r.group_id, r.split, r.status, r.failure_class, r.policy_version, r.reward, r.reward_source,
       r.task_input, r.calls, r.tool_calls, r.tool_errors, r.output_tokens, r.duration_ms, r.source_file
from rollouts as r
join chosen as c on c.batch = r.batch and c.rollout_id = r.rollout_id
