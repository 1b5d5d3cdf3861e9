-- diff/summary: how many calls differ in what, and of how many rollouts.
--
-- reads   differences
-- grain   what

select what, count(*) as calls, count(distinct rollout_id) as rollouts
from differences
group by what, place
order by place
