-- credit/edges_none: nobody asked for edges.
--
-- reads   calls
-- writes  edges
-- grain   rollout_id, step
-- within  rollout_id

select rollout_id, call_id, step, call_id as parent_call_id, step as sequence, step as observation_tokens, step as response_tokens
from calls
where false
