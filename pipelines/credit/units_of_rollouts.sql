-- credit/units_of_rollouts: every rollout counts once.
--
-- reads   rollouts
-- writes  units
-- grain   rollout_id
-- within  rollout_id

select rollout_id, cast(1 as bigint) as units
from rollouts
