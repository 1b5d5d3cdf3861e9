-- explain/credit: every call of a rollout, with what it was given and why.
--
-- reads   calls, credits, transitions
-- params  $rollout Utf8               -- rollout_id

with given as (
    select rollout_id, step, method, comparison, level, outcome, step_reward, total_reward, allocation, return_value, baseline, scale,
           advantage, reason
    from credits
    where rollout_id = $rollout
),
dropped as (
    select rollout_id, step, drop_reason
    from transitions
    where rollout_id = $rollout
)
select c.step, c.agent, c.response, c.finish_reason, c.error, k.method, k.comparison, k.level, k.outcome, k.step_reward,
       k.total_reward, k.allocation, k.return_value, k.baseline, k.scale, k.advantage, k.reason, d.drop_reason
from calls as c
left join given as k on k.rollout_id = c.rollout_id and k.step = c.step
left join dropped as d on d.rollout_id = c.rollout_id and d.step = c.step
where c.rollout_id = $rollout
order by c.step
