-- derive/outcomes: one outcome for each rollout: the weighted sum over its dimensions, or the primary dimension where no weights are set.
-- Where no dimension is marked as primary, or several are, the one stated last counts. A dimension that a rollout does not state adds
-- nothing; a rollout that states none of those with a weight has no outcome. The source is that of the last value that counts.
--
-- reads   reward_weights, rewards
-- writes  outcomes
-- grain   rollout_id
-- within  rollout_id

with weights as (
    select count(*) as weights from reward_weights
),
stated as (
    select
        rewards.rollout_id,
        rewards.name,
        rewards.seq,
        rewards.value,
        rewards.source,
        reward_weights.weight,
        weights.weights,
        row_number() over (
            partition by rewards.rollout_id
            order by case when rewards.is_primary then 0 else 1 end, rewards.seq desc, rewards.name
        ) as place
    from rewards
    cross join weights
    left join reward_weights on reward_weights.name = rewards.name
    where rewards.is_outcome
),
counting as (
    select
        rollout_id,
        name,
        seq,
        source,
        value * coalesce(weight, cast(1 as double)) as weighted
    from stated
    where weight is not null or (weights = 0 and place = 1)
),
summed as (
    select
        rollout_id,
        source,
        sum(weighted) over (
            partition by rollout_id order by name rows between unbounded preceding and unbounded following
        ) as reward,
        row_number() over (partition by rollout_id order by seq desc, name) as place
    from counting
)
select rollout_id, reward, source from summed where place = 1
