-- credit/by_agent: a call answers for its rollout's advantage as much as its agent's weight says.
--
-- reads   scored_calls, agent_weights
-- writes  weights
-- grain   rollout_id, call_id
-- within  rollout_id
--
-- An agent without a weight has 1, as has a call whose agent is not known: they need no row.

select c.rollout_id, c.call_id, w.weight
from agent_weights as w
join scored_calls as c on c.agent = w.agent
