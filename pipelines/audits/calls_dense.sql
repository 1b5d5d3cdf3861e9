-- audits/calls_dense: the steps of a rollout are 0, 1, 2 and so on, without a gap.
--
-- reads   calls
-- audits  calls
-- within  rollout_id

select rollout_id, count(*) as calls, min(step) as first_step, max(step) as last_step
from calls
group by rollout_id
having min(step) <> 0 or max(step) <> count(*) - 1
