-- credits: what each LLM call is held answerable for, and why. Made by `credit`. Sorted by rollout_id, step.
create table credits (
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call
    step bigint not null,               -- step of that call
    agent text,                         -- role that asked
    group_id text not null,             -- rollouts that it is compared with, those of the same split
    method text not null,               -- allocation or estimator: identical, terminal, uniform, discounted, by_agent, return_to_go, state_group, gae or one of the user's own
    comparison text not null,           -- none, group_mean, group_std, batch_std, leave_one_out, batch_whiten, batch_mean, best_of or one of the user's own
    level text not null,                -- rollout, transition or row: what is compared
    outcome double,                     -- R_i, with overlong penalty; null where no reward was stated
    step_reward double not null,        -- r_it: intermediate rewards and AIR of this call
    total_reward double,                -- what the comparison compares: R_i plus every step reward of the rollout
    allocation double not null,         -- w_it; 1 for the methods that do not allocate
    return_value double,                -- G_it for the methods that have one, else total_reward
    baseline double,                    -- what was subtracted; of the state's part for state_group, the value head's estimate for gae without comparison
    scale double,                       -- what it was divided by; 1 where by nothing
    advantage double,                   -- the result; null where there is none to be had, as `verdict` says
    verdict text not null,              -- compared; or why there was nothing to compare: no_variance, singleton, no_reward, infrastructure_failure or no_estimate
    reason text not null                -- how this number came about, in words that a person can read
);
