-- credit/scored_rollouts: what each rollout earned in all, and whether it may be compared with others.
--
-- reads   rollouts, calls, step_rewards, units
-- writes  scored_rollouts
-- grain   rollout_id
-- within  rollout_id
-- params  $missing_zero Boolean       -- a rollout that nobody stated a reward for is worth 0 (true), or is not compared (false)
--         $overlong_tokens Float64    -- tokens of a response at which the overlong penalty is full
--         $overlong_buffer Float64    -- tokens before that over which it grows, more than 0
--         $overlong_penalty Float64   -- full penalty, in units of reward; 0 for none
--
-- The penalty is that of the rollout's longest response: 0 up to `tokens - buffer`, full at `tokens` and beyond, linear between.
-- Source: DAPO (Yu et al. 2025, arXiv 2503.14476), eq. 13, times the penalty. Calls without a recorded length are not penalised.

with lengths as (
    select rollout_id, cast(count(*) as bigint) as calls, max(case when not abandoned then output_tokens end) as longest
    from calls
    group by rollout_id
),
earned as (
    select rollout_id,
           sum(step_reward) over (
               partition by rollout_id order by call_id
               rows between unbounded preceding and unbounded following
           ) as step_rewards,
           cast(row_number() over (partition by rollout_id order by call_id) as bigint) as place
    from step_rewards
),
outcomes as (
    select r.rollout_id, r.split, r.group_id, r.failure_class,
           coalesce(l.calls, cast(0 as bigint)) as calls,
           coalesce(u.units, cast(0 as bigint)) as units,
           coalesce(e.step_rewards, cast(0 as double)) as step_rewards,
           case when $missing_zero then coalesce(r.reward, cast(0 as double)) else r.reward end - $overlong_penalty * least(cast(1 as double), greatest(cast(0 as double), coalesce(
               (cast(l.longest as double) - ($overlong_tokens - $overlong_buffer)) / $overlong_buffer,
               cast(0 as double)
           ))) as outcome
    from rollouts as r
    left join lengths as l on l.rollout_id = r.rollout_id
    left join units as u on u.rollout_id = r.rollout_id
    left join earned as e on e.rollout_id = r.rollout_id and e.place = 1
)
select rollout_id, split, group_id, calls,
       cast(units as double) as units,
       outcome, outcome + step_rewards as total_reward,
       case when failure_class = 'infrastructure' then 'infrastructure_failure'
            when outcome is null then 'no_reward'
            when units = 0 then 'no_calls'
            else 'compared' end as verdict
from outcomes
