-- diff/rows: the differences, those of a call together.
--
-- reads   differences
-- grain   rollout_id, step, call_id, what

select what, rollout_id, step, agent, call_id, this, other, why
from differences
order by rollout_id, step, call_id, place
