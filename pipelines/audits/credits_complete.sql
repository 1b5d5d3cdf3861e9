-- audits/credits_complete: every call has its credit.
--
-- reads   credits, calls
-- audits  credits
-- within  rollout_id

select c.rollout_id, c.call_id
from calls as c
left join credits as k on k.rollout_id = c.rollout_id and k.step = c.step and k.call_id = c.call_id
where k.call_id is null
