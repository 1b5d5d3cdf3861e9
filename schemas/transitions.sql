-- transitions: LLM calls to learn from, one row per call, none left out: those not to be used carry a drop_reason. Made by `credit`.
-- Sorted by group_id, rollout_id, step, so that shared prefixes compress.
create table transitions (
    group_id text not null,             -- samples of one task
    task_id text,                       -- task
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call
    step bigint not null,               -- step of that call
    agent text,                         -- role that asked
    split text not null,                -- train, val or test
    policy_version bigint,              -- version of the policy that answered
    model text,                         -- model that answered
    messages text,                      -- JSON array: the prompt as chat messages
    tools text,                         -- JSON array: tools offered
    response text,                      -- JSON object: the response as one chat message
    prompt_token_ids integer[],         -- ids that the policy saw
    response_token_ids integer[],       -- ids that it sampled
    behaviour_logprobs real[],          -- temperature only: what the trainer recomputes
    sampled_logprobs real[],            -- after every processor
    token_source text not null,         -- engine, or none where train has to make the ids
    temperature double,                 -- divides the logits
    top_p double,                       -- nucleus mass
    top_k bigint,                       -- candidates kept
    finish_reason text,                 -- normalised
    observation_hash text,              -- state for state groups
    reward double,                      -- step reward r_it, with the outcome on the rollout's last call
    outcome double,                     -- R_i
    return_value double,                -- G_it
    advantage double,                   -- what train multiplies the gradient with
    weight double not null,             -- weight of the row in the loss, 1 unless set
    drop_reason text                    -- null: to be used; else why not: infrastructure_failure, not_train, other_agent, no_reward, no_estimate, abandoned, failed_call, empty_response, overlong, singleton, no_variance or no_credit
);
