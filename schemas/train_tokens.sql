-- train_tokens: tokens that were learnt from, one row each; none without `train.tokens`. Made by `train`. Sorted by group_id, rollout_id, step, position.
create table train_tokens (
    group_id text not null,             -- samples of one task
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call
    step bigint not null,               -- step of that call
    position bigint not null,           -- place in the response, from 0
    token_id integer not null,          -- in the policy's vocabulary
    token text not null,                -- its text, with a replacement character where it is half of one
    behaviour_logprob double,           -- as the sampler recorded it
    logprob_before double not null,     -- by the policy that was trained from
    logprob_after double not null,      -- by the policy that came out
    entropy_before double not null,     -- nats
    advantage double not null,          -- of the call
    weight double not null,             -- of the call
    clip text not null                  -- what the loss would do to it now: none, low, high or dual
);
