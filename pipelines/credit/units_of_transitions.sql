-- credit/units_of_transitions: every rollout counts once for each of its calls.
--
-- reads   calls
-- writes  units
-- grain   rollout_id
-- within  rollout_id

select rollout_id, cast(count(*) as bigint) as units
from calls
group by rollout_id
