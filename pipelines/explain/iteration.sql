-- explain/iteration: what the rollouts of a batch came to, in one row.
--
-- reads   air_rewards, calls, rollouts

with found as (
    select rollout_id, sum(value) as air
    from air_rewards
    group by rollout_id
),
said as (
    select avg(cast(output_tokens as double)) as tokens
    from calls
)
select cast(count(*) as bigint) as rollouts,
       avg(r.reward) as reward,
       avg(coalesce(f.air, cast(0 as double))) as air,
       avg(cast(r.calls as double)) as calls,
       cast(sum(r.tool_errors) as double) / nullif(cast(sum(r.tool_calls) as double), cast(0 as double)) as tool_errors,
       max(s.tokens) as tokens
from rollouts r
left join found f on f.rollout_id = r.rollout_id
cross join said s
