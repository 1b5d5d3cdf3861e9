-- credit/reward_terms: the rewards of a rollout call by call, its outcome on the last one.
--
-- reads   scored_calls
-- writes  terms
-- grain   rollout_id, step
-- within  rollout_id

select rollout_id, step,
       step_reward + case when step = calls - 1 then coalesce(outcome, cast(0 as double)) else cast(0 as double) end as term
from scored_calls
