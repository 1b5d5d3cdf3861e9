-- credit/discounted_sums: `D_t = sum over k >= t of factor^(k-t) * term_k`, for every call of a rollout.
--
-- reads   terms
-- writes  discounted_sums
-- grain   rollout_id, step
-- within  rollout_id
-- params  $factor Float64             -- discount per call, 0 to 1
--         $block Float64              -- calls in a block: at most as many as keep factor^block above 1e-100, at least 1
--
-- The sum runs backwards and only ever adds, so that nothing cancels: within a block of calls it adds `factor^(k - first of the
-- block) * term_k` and divides by the power of its own call. What lies in the next block comes in through that block's first call; what
-- lies two blocks on weighs less than 1e-100. Linear in the calls, for any factor: 0 makes blocks of one call, 1 a single block.
--
-- Source: Sutton and Barto, Reinforcement Learning, 2nd ed., eq. 3.8.

with blocks as (
    select rollout_id, step, term, floor(cast(step as double) / $block) as block
    from terms
),
placed as (
    select rollout_id, step, term, block, cast(step as double) - block * $block as place
    from blocks
),
within as (
    select rollout_id, step, block, place,
           sum(power($factor, place) * term) over (
               partition by rollout_id, block order by step desc
               rows between unbounded preceding and current row
           ) / power($factor, place) as inside
    from placed
),
firsts as (
    select rollout_id, block - 1 as block_before, inside
    from within
    where place = 0 and block > 0
)
select w.rollout_id, w.step,
       w.inside + coalesce(power($factor, $block - w.place) * f.inside, cast(0 as double)) as discounted_sum
from within as w
left join firsts as f on f.rollout_id = w.rollout_id and f.block_before = w.block
