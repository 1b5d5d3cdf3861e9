-- explain/step_rewards: what the calls of a rollout earned beside the outcome, and where it came from.
--
-- reads   calls, rewards, air_rewards
-- params  $rollout Utf8               -- rollout_id

with stated as (
    select r.rollout_id, r.call_id, 'stated ' || r.name as what, r.value
    from rewards as r
    where r.rollout_id = $rollout and r.call_id is not null and not r.is_outcome and r.value is not null
),
found as (
    select rollout_id, call_id, rule as what, value
    from air_rewards
    where rollout_id = $rollout and value <> 0
),
together as (
    select rollout_id, call_id, what, value from stated
    union all
    select rollout_id, call_id, what, value from found
)
select c.step, t.what, t.value
from together as t
join calls as c on c.rollout_id = t.rollout_id and c.call_id = t.call_id
order by c.step, t.what, t.value
