-- report/air: what the rules found, for counting.
--
-- reads   air_rewards

select batch, rollout_id, rule, value
from air_rewards
order by batch, rollout_id, step, rule, evidence_span_id
