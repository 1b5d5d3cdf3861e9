-- derive/rewards: rewards with what they are about: a stated link first, then the order rule, else nothing.
-- The outcome of a dimension is its last value: one about the whole run before any other, and one that is linked to a call only where
-- no reward of the rollout is without a link. What comes before an outcome is an intermediate reward of the call that it is attached to.
--
-- reads   reward_links, reward_order, stated_rewards
-- writes  rewards
-- grain   rollout_id, reward_id
-- within  rollout_id

with attached as (
    select
        stated_rewards.rollout_id,
        stated_rewards.reward_id,
        stated_rewards.seq,
        stated_rewards.name,
        stated_rewards.value,
        stated_rewards.label,
        stated_rewards.source,
        stated_rewards.comment,
        stated_rewards.is_primary,
        stated_rewards.is_final,
        stated_rewards.target,
        coalesce(reward_order.is_ambiguous, false) as ambiguous,
        reward_links.call_id as linked_call,
        reward_order.call_id as ordered_call,
        case
            when reward_links.call_id is not null then 'link'
            when stated_rewards.is_final or reward_links.is_whole then 'rollout'
            when reward_order.call_id is not null and not reward_order.is_ambiguous then 'order'
            else 'none'
        end as attached_by
    from stated_rewards
    left join reward_links
        on reward_links.rollout_id = stated_rewards.rollout_id and reward_links.reward_id = stated_rewards.reward_id
    left join reward_order
        on reward_order.rollout_id = stated_rewards.rollout_id and reward_order.reward_id = stated_rewards.reward_id
),
-- 0: no value, 1: linked to a call, 2: not linked, 3: about the whole run
ranked as (
    select
        rollout_id, reward_id, seq, name, value, label, source, comment, is_primary, target, ambiguous,
        linked_call, ordered_call, attached_by,
        case
            when value is null then 0
            when is_final or attached_by = 'rollout' then 3
            when attached_by = 'link' then 1
            else 2
        end as claim
    from attached
),
placed as (
    select
        rollout_id, reward_id, seq, name, value, label, source, comment, is_primary, target, ambiguous,
        linked_call, ordered_call, attached_by, claim,
        row_number() over (partition by rollout_id, name order by claim desc, seq desc, reward_id) as place,
        max(claim) over (partition by rollout_id) as best_claim
    from ranked
)
select
    rollout_id,
    reward_id,
    seq,
    name,
    value,
    label,
    source,
    comment,
    is_primary,
    place = 1 and (claim > 1 or (claim = 1 and best_claim = 1)) as is_outcome,
    case attached_by when 'link' then linked_call when 'order' then ordered_call end as call_id,
    attached_by,
    ambiguous,
    target as span_id
from placed
