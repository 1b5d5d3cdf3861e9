-- report/chosen_tokens: what training did to each token of the rollouts that are shown.
--
-- reads   chosen, train_tokens

select t.batch, t.rollout_id, t.call_id, t.step, t.position, t.token, t.logprob_before, t.logprob_after, t.clip
from train_tokens as t
join chosen as c on c.batch = t.batch and c.rollout_id = t.rollout_id
