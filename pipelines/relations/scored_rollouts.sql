-- scored_rollouts: what each rollout earned in all, and whether it may be compared with others. Read by comparisons. Made by `credit`.
create table scored_rollouts (
    rollout_id text not null,           -- run
    split text not null,                -- train, val or test; splits are never compared with each other
    group_id text not null,             -- rollouts that it is compared with
    calls bigint not null,              -- T_i, its LLM calls
    units double not null,              -- how often it counts: 1, or once for each call at the levels transition and row
    outcome double,                     -- R_i, with overlong penalty; null where no reward was stated
    total_reward double,                -- R_i plus every step reward
    verdict text not null               -- compared, infrastructure_failure, no_reward or no_calls; only the first may be compared
);
