-- train_steps: steps of the optimiser, one row each. Made by `train`. Sorted by step.
create table train_steps (
    step bigint not null,                   -- from 0
    epoch bigint not null,                  -- pass over the rows, from 0
    policy_version bigint not null,         -- version that was being made
    algorithm text not null,                -- what it was trained with
    calls bigint not null,                  -- LLM calls of the step
    rollouts bigint not null,               -- runs that these are of
    groups bigint not null,                 -- groups that those are of
    response_tokens bigint not null,        -- tokens that were learnt from
    row_tokens bigint not null,             -- prompt and response tokens, as separate rows would go through the model
    trie_tokens bigint not null,            -- of these, the distinct prefixes: what was computed
    skipped boolean not null,               -- the loss or a gradient was not finite, and nothing was learnt
    learning_rate double,                   -- after schedule
    loss double,                            -- what was minimised
    policy_loss double,                     -- its part from the algorithm
    kl_loss double,                         -- its part from the divergence to the reference
    grad_norm double,                       -- of all gradients together, before clipping
    entropy double,                         -- mean of the tokens', nats
    reward_mean double,                     -- outcome of the step's rollouts: mean
    reward_std double,                      -- standard deviation, n - 1
    reward_min double,                      -- smallest
    reward_max double,                      -- largest
    frac_reward_zero_std double,            -- share of the batch's training groups whose outcomes are all equal
    advantage_mean double,                  -- over tokens
    advantage_std double,                   -- over tokens, n - 1
    frac_advantage_zero double,             -- share of tokens
    ppo_kl double,                          -- mean of old_logp - logp
    approx_kl double,                       -- the same divergence by the k3 estimator
    reference_kl double,                    -- divergence from the reference policy, by the estimator that is set
    ratio_mean double,                      -- exp(logp - old_logp), mean
    ratio_max double,                       -- and largest
    clip_fraction_low double,               -- share of tokens whose ratio was held at the lower bound
    clip_fraction_high double,              -- at the upper bound
    clip_fraction_dual double,              -- at the cap for negative advantages
    sampling_logp_difference_mean double,   -- |trainer - sampler| of the same tokens' log-probs: mean
    sampling_logp_difference_max double,    -- and largest
    sampling_k3 double,                     -- divergence of trainer and sampler by the k3 estimator
    sampling_chi2 double,                   -- chi-squared divergence of the two
    sampling_ratio_mean double,             -- exp(trainer - sampler), mean
    sampling_ratio_min double,              -- smallest
    sampling_ratio_max double,              -- largest
    effective_sample_size double,           -- of those ratios as weights, as a share of the tokens
    correction_mean double,                 -- weight that the correction gave, mean over tokens
    frac_tokens_rejected double,            -- share of tokens that the correction took out
    frac_rows_rejected double,              -- share of rows that it took out whole
    response_length_mean double,            -- tokens
    response_length_max double,             -- tokens
    prompt_length_mean double,              -- tokens
    truncated_fraction double,              -- share of responses that ended at their limit
    turns_mean double,                      -- LLM calls of a rollout
    staleness_mean double,                  -- policy versions between the one that answered and the one that was trained
    vf_loss double,                         -- loss of the value head, where there is one
    vf_clip_fraction double,                -- share of its estimates that were held
    vf_explained_variance double,           -- 1 - Var(return - value) / Var(return)
    value_mean double,                      -- its mean estimate
    tokens_per_second double,               -- row_tokens by seconds
    seconds double                          -- the only columns that differ between equal runs are this and the one before
);
