-- values: the value head's estimate for each LLM call. Made by the stage `values`, only with a critic. Sorted by rollout_id, step.
create table "values" (
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call
    step bigint not null,               -- step of that call
    value double not null               -- expected return at the call's last prompt token, in units of reward
);
