-- explain/steps: what the optimiser's steps of a batch came to, in one row.
--
-- reads   train_steps

select avg(approx_kl) as kl,
       avg(entropy) as entropy,
       avg(clip_fraction_low) + avg(clip_fraction_high) as clipped,
       avg(grad_norm) as grad_norm,
       max(sampling_logp_difference_max) as mismatch
from train_steps
