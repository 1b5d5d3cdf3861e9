-- credit/scored_calls: every call with what it earned and what its rollout earned.
--
-- reads   calls, scored_rollouts, step_rewards
-- writes  scored_calls
-- grain   rollout_id, call_id

select c.rollout_id, c.call_id, c.step, c.agent, c.observation_hash,
       r.split, r.group_id, r.calls, r.outcome,
       coalesce(s.step_reward, cast(0 as double)) as step_reward,
       r.total_reward, r.verdict
from calls as c
join scored_rollouts as r on r.rollout_id = c.rollout_id
left join step_rewards as s on s.rollout_id = c.rollout_id and s.call_id = c.call_id
