-- report/steps: metrics of the optimiser's steps.
--
-- reads   train_steps

select batch, step, policy_version, algorithm, loss, approx_kl, entropy, clip_fraction_low + clip_fraction_high as clipped, grad_norm,
       sampling_logp_difference_max as mismatch, response_length_mean as response_length, tokens_per_second
from train_steps
order by batch, step
