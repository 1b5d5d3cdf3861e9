-- report/chosen_calls: the calls of the rollouts that are shown, with what each was given and why.
--
-- reads   calls, chosen, credits, transitions

select k.batch, k.rollout_id, k.call_id, k.step, k.agent, k.model, k.messages, k.response, k.finish_reason, k.error, k.abandoned,
       k.input_tokens, k.output_tokens, k.response_token_ids, k.behaviour_logprobs, k.latency_ms,
       g.reason, g.return_value, g.baseline, g.step_reward, t.reward, t.advantage, t.weight, t.drop_reason
from calls as k
join chosen as c on c.batch = k.batch and c.rollout_id = k.rollout_id
left join credits as g on g.batch = k.batch and g.rollout_id = k.rollout_id and g.call_id = k.call_id
left join transitions as t on t.batch = k.batch and t.rollout_id = k.rollout_id and t.call_id = k.call_id
