-- credit/identical: every call answers for the whole of its rollout's advantage.
--
-- reads   scored_calls
-- writes  weights
-- grain   rollout_id, call_id
-- within  rollout_id
--
-- Source: Agent Lightning (Luo et al. 2025, arXiv 2508.03680), section 3.3.

-- A call without a weight has 1, so that there is nothing to write.
select rollout_id, call_id, cast(1 as double) as weight
from scored_calls
where false
