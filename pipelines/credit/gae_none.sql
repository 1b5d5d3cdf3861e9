-- credit/gae_none: generalised advantage estimation, uncompared.
--
-- reads   scored_calls, discounted_sums, values
-- writes  estimates
-- grain   rollout_id, step
-- within  rollout_id
--
-- `A_t = sum (gamma * lambda)^(k-t) * td_error_k`; the return is A + V.
-- Source: GAE (Schulman et al. 2016, arXiv 1506.02438), eq. 16.

select c.rollout_id, c.step, d.discounted_sum + v.value as return_value, v.value as baseline, cast(1 as double) as scale,
       d.discounted_sum as advantage, c.verdict
from scored_calls as c
join discounted_sums as d on d.rollout_id = c.rollout_id and d.step = c.step
join "values" as v on v.rollout_id = c.rollout_id and v.call_id = c.call_id
where c.verdict = 'compared'
