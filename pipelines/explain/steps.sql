-- explain/steps: what the optimiser's steps of a batch came to, in one row. Sampler and trainer are compared at the same weights: at the first step.
--
-- reads   train_steps

select avg(approx_kl) as kl,
       avg(entropy) as entropy,
       avg(clip_fraction_low) + avg(clip_fraction_high) as clipped,
       avg(grad_norm) as grad_norm,
       max(sampling_logp_difference_max) filter (where step = 0) as mismatch,
       sum(seconds) as seconds
from train_steps
