-- audits/transitions_explained: a call without an advantage is dropped, and says why.
--
-- reads   transitions
-- audits  transitions
-- within  rollout_id

select rollout_id, call_id, advantage, drop_reason
from transitions
where advantage is null and drop_reason is null
