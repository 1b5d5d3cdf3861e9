-- credit/scored_rollouts: what each rollout earned in all, and whether it may be compared with others.
--
-- reads   rollouts, calls, step_rewards
-- writes  scored_rollouts
-- grain   rollout_id
-- params  $compare_calls Boolean      -- true: a rollout counts once for each of its calls (level transition), false: once
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
           coalesce(e.step_rewards, cast(0 as double)) as step_rewards,
           r.reward - $overlong_penalty * least(cast(1 as double), greatest(cast(0 as double), coalesce(
               (cast(l.longest as double) - ($overlong_tokens - $overlong_buffer)) / $overlong_buffer,
               cast(0 as double)
           ))) as outcome
    from rollouts as r
    left join lengths as l on l.rollout_id = r.rollout_id
    left join earned as e on e.rollout_id = r.rollout_id and e.place = 1
)
select rollout_id, split, group_id, calls,
       cast(case when $compare_calls then calls else 1 end as double) as units,
       outcome, outcome + step_rewards as total_reward,
       case when failure_class = 'infrastructure' then 'infrastructure_failure'
            when outcome is null then 'no_reward'
            when $compare_calls and calls = 0 then 'no_calls'
            else 'compared' end as verdict
from outcomes
