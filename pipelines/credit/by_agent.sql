-- credit/by_agent: a call answers for its rollout's advantage as much as its agent's weight says.
--
-- reads   scored_calls, agent_weights
-- writes  weights
-- grain   rollout_id, call_id
--
-- An agent without a weight has 1, as has a call whose agent is not known.

select c.rollout_id, c.call_id, coalesce(w.weight, cast(1 as double)) as weight
from scored_calls as c
left join agent_weights as w on w.agent = c.agent
