-- audits/rewards_outcomes: a rollout has at most one outcome of each dimension.
--
-- reads   rewards
-- audits  rewards
-- within  rollout_id

select rollout_id, name, count(*) as outcomes
from rewards
where is_outcome
group by rollout_id, name
having count(*) > 1
