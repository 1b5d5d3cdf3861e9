-- derive/stated_rewards: the rewards as they were stated, before anything is known about what they are about.
--
-- reads   spans
-- writes  stated_rewards
-- grain   rollout_id, reward_id
-- within  rollout_id

select
    rollout_id,
    span_id as reward_id,
    seq,
    coalesce(reward_name, name, 'reward') as name,
    reward_value as value,
    reward_label as label,
    reward_source as source,
    reward_comment as comment,
    coalesce(reward_primary, false) as is_primary,
    coalesce(reward_final, false) as is_final,
    reward_target as target,
    start_ns
from spans
where kind = 'reward' and dedup_of is null
