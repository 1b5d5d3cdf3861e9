-- air_rewards: automatic intermediate rewards, one row per finding of a rule. Made by `air`. Sorted by rollout_id, step, rule, evidence_span_id.
create table air_rewards (
    rollout_id text not null,           -- run that it was found in
    call_id text not null,              -- LLM call that it is given to
    step bigint not null,               -- step of that call
    rule text not null,                 -- name of the rule, or `potential` for the shaping term of a call
    weight double not null,             -- what the rule gives before any cap
    scale double not null,              -- what the cap makes of it, 0 to 1; 0 for findings in the potential form, whose effect is in the `potential` rows
    value double not null,              -- what credit adds: weight times scale
    evidence_span_id text               -- the span that shows it; null for `potential`
);
