-- credit/terminal: the last call answers for the whole of its rollout's advantage, the others for nothing.
--
-- reads   scored_calls
-- writes  weights
-- grain   rollout_id, call_id
-- within  rollout_id

select rollout_id, call_id, cast(case when step = calls - 1 then 1 else 0 end as double) as weight
from scored_calls
