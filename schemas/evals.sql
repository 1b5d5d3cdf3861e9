-- evals: one row for each sample of each task of an evaluation. Made by `eval`. Sorted by task_id, sample.
create table evals (
    task_id text not null,              -- task
    sample bigint not null,             -- 0 is the greedy answer; the others are drawn at the temperature beside them, from 1
    rollout_id text not null,           -- its run: the trace is traces/batch=<batch>/<rollout_id>.otlp.jsonl.zst
    split text not null,                -- train, val or test
    policy_version bigint not null,     -- policy that was evaluated
    temperature double not null,        -- 0 for greedy
    reward double,                      -- null where none was stated, or the infrastructure failed
    failure_class text,                 -- agent, timeout, infrastructure, reward_missing, or null
    calls bigint not null               -- LLM calls
);
