-- audits/air_rewards_attached: every finding is given to a call that is there.
--
-- reads   air_rewards
-- audits  air_rewards
-- within  rollout_id

select rollout_id, call_id, rule, evidence_span_id
from air_rewards
where step < 0
