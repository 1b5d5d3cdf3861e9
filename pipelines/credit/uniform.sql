-- credit/uniform: the calls of a rollout share its advantage evenly.
--
-- reads   scored_calls
-- writes  weights
-- grain   rollout_id, call_id
-- within  rollout_id

select rollout_id, call_id, cast(1 as double) / cast(calls as double) as weight
from scored_calls
