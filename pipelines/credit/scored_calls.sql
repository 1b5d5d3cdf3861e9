-- credit/scored_calls: every call with what it earned and what its rollout earned.
--
-- reads   calls, scored_rollouts, step_rewards
-- writes  scored_calls
-- grain   rollout_id, call_id
-- within  rollout_id
--
-- In every join of `credit` the smaller side comes first: it is the one that is held in memory.

with called as (
    select c.rollout_id, c.call_id, c.step, c.agent, c.observation_hash, r.split, r.group_id, r.calls, r.outcome, r.total_reward, r.verdict
    from scored_rollouts as r
    join calls as c on c.rollout_id = r.rollout_id
)
select c.rollout_id, c.call_id, c.step, c.agent, c.observation_hash, c.split, c.group_id, c.calls, c.outcome,
       coalesce(s.step_reward, cast(0 as double)) as step_reward,
       c.total_reward, c.verdict
from step_rewards as s
right join called as c on c.rollout_id = s.rollout_id and c.call_id = s.call_id
