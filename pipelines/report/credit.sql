-- report/credit: what each call was given, for counting.
--
-- reads   transitions

select batch, rollout_id, step, coalesce(agent, 'agent') as agent, advantage, drop_reason
from transitions
order by batch, group_id, rollout_id, step
