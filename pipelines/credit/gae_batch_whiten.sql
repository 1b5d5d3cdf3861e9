-- credit/gae_batch_whiten: generalised advantage estimation, whitened over all calls of the batch.
--
-- reads   scored_calls, discounted_sums, values
-- writes  estimates
-- grain   rollout_id, step
-- params  $singleton_keep Boolean     -- a call that is alone in the batch keeps its estimate (true) or has 0 (false)
--
-- `(A - mean) / sqrt(var + 1e-8)` of `A = sum (gamma * lambda)^(k-t) * td_error_k`, the variance that of a sample, the mean over
-- n + 1e-8, as in verl's masked whitening. The return is A + V, before whitening.
-- Source: GAE (Schulman et al. 2016, arXiv 1506.02438), eq. 16.

with placed as (
    select c.rollout_id, c.step, c.split, d.discounted_sum as estimate, d.discounted_sum + v.value as return_value
    from scored_calls as c
    join discounted_sums as d on d.rollout_id = c.rollout_id and d.step = c.step
    join "values" as v on v.rollout_id = c.rollout_id and v.call_id = c.call_id
    where c.verdict = 'compared'
),
sums as (
    select rollout_id, step, split, estimate, return_value,
           cast(count(*) over batched as double) as n,
           sum(estimate) over batched as total,
           min(estimate) over batched as lowest,
           max(estimate) over batched as highest
    from placed
    window batched as (partition by split order by rollout_id, step rows between unbounded preceding and unbounded following)
),
centred as (
    select rollout_id, step, split, estimate, return_value, n,
           case when n <= 1 then cast(0 as double) else total / (n + cast(0.00000001 as double)) end as baseline,
           case when n <= 1 then 'singleton' when lowest = highest then 'no_variance' else 'compared' end as verdict
    from sums
),
spread as (
    select rollout_id, step, estimate, return_value, n, baseline, verdict,
           sum((estimate - baseline) * (estimate - baseline)) over batched as squares
    from centred
    window batched as (partition by split order by rollout_id, step rows between unbounded preceding and unbounded following)
),
judged as (
    select rollout_id, step, estimate, return_value, baseline, verdict,
           case when n <= 1 then cast(1 as double)
                else sqrt(squares / (n + cast(0.00000001 as double)) * (n / (n - 1)) + cast(0.00000001 as double)) end as scale
    from spread
)
select rollout_id, step, return_value, baseline, scale,
       case when verdict = 'compared' or (verdict = 'singleton' and $singleton_keep) then (estimate - baseline) / scale
            else cast(0 as double) end as advantage,
       verdict
from judged
