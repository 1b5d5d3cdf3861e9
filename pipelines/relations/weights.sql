-- weights: how much of its rollout's advantage each call answers for. Every file in `pipelines/credit` that writes it is an
-- allocation. Made by `credit`.
create table weights (
    rollout_id text not null,           -- run
    call_id text not null,              -- LLM call; one without a row has weight 1
    weight double not null              -- w_it, 1 for the whole
);
