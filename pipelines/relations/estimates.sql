-- estimates: how well each call did, by a method that looks at calls. Every file in `pipelines/credit` that writes it is called
-- `<method>_<comparison>` and makes that pair. Made by `credit`.
create table estimates (
    rollout_id text not null,           -- run
    step bigint not null,               -- step of the call; one without a row has no advantage
    return_value double not null,       -- G_it
    baseline double not null,           -- what was subtracted
    scale double not null,              -- what the difference was divided by
    advantage double not null,          -- the result
    verdict text not null               -- compared; or why there was nothing to compare: singleton or no_variance
);
