-- derive/moments: calls, when they ended, and rewards without a link, when they began, in one order for each rollout.
-- The order is that of time; where a call or reward of the rollout has none, that of seq. At one instant, seq decides.
--
-- reads   calls, stated_rewards
-- writes  moments
-- grain   rollout_id, seq
-- within  rollout_id

with rewarded as (
    select distinct rollout_id from stated_rewards where target is null and not is_final
),
moments as (
    select calls.rollout_id, calls.call_id as id, true as is_call, calls.seq, calls.start_ns, calls.end_ns as at_ns
    from calls
    inner join rewarded on rewarded.rollout_id = calls.rollout_id
    union all
    select rollout_id, reward_id as id, false as is_call, seq, start_ns, start_ns as at_ns
    from stated_rewards
    where target is null and not is_final
),
timed as (
    select
        rollout_id, id, is_call, seq, start_ns, at_ns,
        min(case when at_ns is null or start_ns is null then 0 else 1 end) over (partition by rollout_id) = 1 as is_timed
    from moments
),
placed as (
    select rollout_id, id, is_call, seq, start_ns, at_ns, is_timed, case when is_timed then at_ns else seq end as place
    from timed
)
select
    rollout_id,
    id,
    is_call,
    seq,
    -- how many calls have ended so far, this one included
    cast(sum(case when is_call then 1 else 0 end) over (
        partition by rollout_id order by place, seq rows between unbounded preceding and current row
    ) as bigint) as calls_ended,
    start_ns,
    at_ns,
    is_timed,
    -- the latest end of the calls that ended before
    max(case when is_call then at_ns end) over (
        partition by rollout_id order by place, seq rows between unbounded preceding and 1 preceding
    ) as earlier_end_ns
from placed
