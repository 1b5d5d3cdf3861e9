-- credit/credits_of_estimates: a call's advantage is what the estimator found for it.
--
-- reads   scored_calls, estimates
-- writes  credits
-- grain   rollout_id, step
-- within  rollout_id
-- params  $method Utf8                -- name of the estimator
--         $comparison Utf8            -- name of the comparison
--         $level Utf8                 -- rollout, transition or row: what was compared
--         $reason Utf8                -- what it does, in words
--         $singleton_keep Boolean     -- what is alone keeps its return as advantage (true) or has 0 (false)

with joined as (
    select c.rollout_id, c.call_id, c.step, c.agent, c.group_id, c.outcome, c.step_reward, c.total_reward,
           case when c.verdict = 'compared' then e.return_value end as return_value,
           case when c.verdict = 'compared' then e.baseline end as baseline,
           case when c.verdict = 'compared' then e.scale end as scale,
           case when c.verdict = 'compared' then e.advantage end as advantage,
           case when c.verdict = 'compared' then coalesce(e.verdict, 'no_estimate') else c.verdict end as verdict
    from estimates as e
    right join scored_calls as c on c.rollout_id = e.rollout_id and c.step = e.step
)
select rollout_id, call_id, step, agent, group_id,
       cast($method as text) as method, cast($comparison as text) as comparison, cast($level as text) as level,
       outcome, step_reward, total_reward, cast(1 as double) as allocation, return_value, baseline, scale, advantage, verdict,
       case verdict
           when 'compared' then cast($reason as text)
           when 'singleton' then case when $singleton_keep then 'alone in its group: keeps its return' else 'alone in its group: nothing to compare with' end
           when 'no_variance' then 'all that it is compared with earned the same'
           when 'no_reward' then 'no reward was stated for its rollout'
           when 'infrastructure_failure' then 'the infrastructure failed: kept out of every comparison'
           else 'the estimator has nothing on this call'
       end as reason
from joined
