-- credit/td_errors: how much better each call went than the value head expected: `r_t + gamma * V_{t+1} - V_t`.
--
-- reads   scored_calls, values
-- writes  terms
-- grain   rollout_id, step
-- within  rollout_id
-- params  $gamma Float64              -- discount per call, 0 to 1
--
-- `V` after the last call is 0. A rollout of which any call has no value is left out: the estimate would skip what it lacks.

with valued as (
    select c.rollout_id, c.step, c.calls, v.value,
           cast(count(v.value) over (partition by c.rollout_id) as bigint) as valued_calls,
           c.step_reward + case when c.step = c.calls - 1 then coalesce(c.outcome, cast(0 as double)) else cast(0 as double) end as reward
    from "values" as v
    right join scored_calls as c on v.rollout_id = c.rollout_id and v.call_id = c.call_id
),
followed as (
    select rollout_id, step, calls, value, reward,
           lead(value) over (partition by rollout_id order by step) as next_value
    from valued
    where valued_calls = calls
)
select rollout_id, step,
       reward + $gamma * case when step = calls - 1 then cast(0 as double) else next_value end - value as term
from followed
