-- credit/credits_of_weights: a call's advantage is its share of its rollout's.
--
-- reads   scored_calls, weights, comparisons
-- writes  credits
-- grain   rollout_id, step
-- within  rollout_id
-- params  $method Utf8                -- name of the allocation
--         $comparison Utf8            -- name of the comparison
--         $level Utf8                 -- rollout, transition or row: what was compared
--         $reason Utf8                -- what the two do, in words
--         $singleton_keep Boolean     -- what is alone keeps its reward as advantage (true) or has 0 (false)

with compared as (
    select c.rollout_id, c.call_id, c.step, c.agent, c.group_id, c.outcome, c.step_reward, c.total_reward,
           m.baseline, m.scale, m.advantage,
           case when c.verdict = 'compared' then coalesce(m.verdict, 'no_estimate') else c.verdict end as verdict
    from comparisons as m
    right join scored_calls as c on c.rollout_id = m.rollout_id
),
joined as (
    select c.rollout_id, c.call_id, c.step, c.agent, c.group_id, c.outcome, c.step_reward, c.total_reward,
           coalesce(w.weight, cast(1 as double)) as allocation, c.baseline, c.scale, c.advantage, c.verdict
    from weights as w
    right join compared as c on c.rollout_id = w.rollout_id and c.call_id = w.call_id
)
select rollout_id, call_id, step, agent, group_id,
       cast($method as text) as method, cast($comparison as text) as comparison, cast($level as text) as level,
       outcome, step_reward, total_reward, allocation, total_reward as return_value, baseline, scale,
       case when allocation = 0 then advantage * cast(0 as double) else advantage * allocation end as advantage,
       verdict,
       case verdict
           when 'compared' then cast($reason as text)
           when 'singleton' then case when $singleton_keep then 'alone in its group: keeps its reward' else 'alone in its group: nothing to compare with' end
           when 'no_variance' then 'all that it is compared with earned the same'
           when 'no_reward' then 'no reward was stated for its rollout'
           when 'infrastructure_failure' then 'the infrastructure failed: kept out of every comparison'
           else 'the comparison has nothing on its rollout'
       end as reason
from joined
