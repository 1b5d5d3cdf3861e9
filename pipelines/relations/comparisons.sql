-- comparisons: how each rollout did against others. Every file in `pipelines/credit` that writes it is a comparison. Made by `credit`.
create table comparisons (
    rollout_id text not null,           -- run; one without a row has no advantage
    baseline double not null,           -- what was subtracted from its total reward
    scale double not null,              -- what the difference was divided by
    advantage double not null,          -- A_i
    verdict text not null               -- compared; or why there was nothing to compare: singleton or no_variance
);
