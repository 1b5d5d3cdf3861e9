-- audits/air_rewards_bounded: the rewards of a rollout come to no more than the cap, and are finite.
--
-- reads   air_rewards
-- audits  air_rewards
-- within  rollout_id
-- params  $cap Float64                -- most that the absolute values of a rollout's rewards may sum to, in units of reward
--         $potential Boolean          -- the rewards are the shaping of a potential, which is bounded call by call

with sizes as (
    select rollout_id, sum(abs(value)) as size, max(abs(value)) as largest
    from air_rewards
    group by rollout_id
)
select rollout_id, size, largest
from sizes
where not (case when $potential then largest / 2 else size end <= $cap * cast(1.000000001 as double))
