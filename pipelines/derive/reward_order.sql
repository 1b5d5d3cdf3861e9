-- derive/reward_order: the order rule: a reward without a link is about the call that ended last before it began.
-- If another call was under way while that one was, or ended at the same instant, either could be meant: the reward is ambiguous.
--
-- reads   moments
-- writes  reward_order
-- grain   rollout_id, reward_id
-- within  rollout_id

with asked as (
    select rollout_id, id as reward_id, calls_ended from moments where not is_call
),
ended as (
    select
        rollout_id,
        id as call_id,
        calls_ended,
        coalesce(is_timed and (earlier_end_ns > start_ns or earlier_end_ns = at_ns), false) as is_ambiguous
    from moments
    where is_call
)
select asked.rollout_id, asked.reward_id, ended.call_id, ended.is_ambiguous
from asked
inner join ended on ended.rollout_id = asked.rollout_id and ended.calls_ended = asked.calls_ended
