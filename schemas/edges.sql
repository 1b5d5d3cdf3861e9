-- edges: LLM calls that go on where another of their rollout ended, id for id, so that both are one sequence of tokens. Empty where
-- `credit.edges` asks for none; answered calls with token ids otherwise. Made by `credit`. Sorted by rollout_id, step.
create table edges (
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call
    step bigint not null,               -- step of that call
    parent_call_id text,                -- call whose prompt and response its prompt begins with; null where a sequence begins
    sequence bigint not null,           -- sequence of tokens that the call is part of, from 0 in each rollout
    observation_tokens bigint,          -- ids of the prompt after what the parent said, which nobody sampled; null where a sequence begins
    response_tokens bigint not null     -- ids that the policy sampled
);
