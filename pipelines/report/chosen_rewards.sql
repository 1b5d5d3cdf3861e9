-- report/chosen_rewards: the rewards that were stated about the rollouts that are shown.
--
-- reads   chosen, rewards

select w.batch, w.rollout_id, w.call_id, w.seq, w.reward_id, w.name, w.value, w.label, w.source, w.comment
from rewards as w
join chosen as c on c.batch = w.batch and c.rollout_id = w.rollout_id
