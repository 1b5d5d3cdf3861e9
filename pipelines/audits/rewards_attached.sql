-- audits/rewards_attached: a reward that is attached to a call names one that is there.
--
-- reads   calls, rewards
-- audits  rewards
-- within  rollout_id

select rewards.rollout_id, rewards.reward_id, rewards.call_id
from rewards
left join calls on calls.rollout_id = rewards.rollout_id and calls.call_id = rewards.call_id
where rewards.call_id is not null and calls.call_id is null
