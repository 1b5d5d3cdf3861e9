-- credit/discounted: a call's share of its rollout's advantage shrinks with the calls that came after it.
--
-- reads   scored_calls
-- writes  weights
-- grain   rollout_id, call_id
-- within  rollout_id
-- params  $gamma Float64              -- discount per call, 0 to 1

select rollout_id, call_id, power($gamma, cast(calls - 1 - step as double)) as weight
from scored_calls
