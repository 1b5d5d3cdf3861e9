-- explain/group: the rollouts that a rollout is compared with, and what each earned in all.
--
-- reads   credits, rollouts
-- params  $rollout Utf8               -- rollout_id

with own as (
    select group_id, split
    from rollouts
    where rollout_id = $rollout
)
select r.rollout_id as member, r.failure_class, k.total_reward
from rollouts as r
join own as o on o.group_id = r.group_id and o.split = r.split
left join credits as k on k.rollout_id = r.rollout_id and k.step = 0
order by r.rollout_id
