-- credit/return_to_go_none: the return of each call, uncompared.
--
-- reads   scored_calls, discounted_sums
-- writes  estimates
-- grain   rollout_id, step
-- within  rollout_id

select c.rollout_id, c.step, d.discounted_sum as return_value, cast(0 as double) as baseline, cast(1 as double) as scale,
       d.discounted_sum as advantage, c.verdict
from scored_calls as c
join discounted_sums as d on d.rollout_id = c.rollout_id and d.step = c.step
where c.verdict = 'compared'
