-- scored_calls: every call with what it earned and what its rollout earned. Read by allocations and estimators. Made by `credit`.
create table scored_calls (
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call
    step bigint not null,               -- step of that call, from 0
    agent text,                         -- role that asked
    observation_hash text,              -- hash of the latest input message that is not the assistant's
    split text not null,                -- train, val or test
    group_id text not null,             -- rollouts that it is compared with
    calls bigint not null,              -- T_i, LLM calls of the rollout
    outcome double,                     -- R_i, with overlong penalty
    step_reward double not null,        -- what this call earned beside the outcome: stated rewards and AIR
    total_reward double,                -- R_i plus every step reward of the rollout
    verdict text not null               -- as in scored_rollouts
);
