-- air_findings: what the rules of `air` found, before any cap. Every file in `pipelines/air` that writes it is a rule. Made by `air`.
create table air_findings (
    rollout_id text not null,           -- run that it was found in
    call_id text not null,              -- LLM call that it is given to
    rule text not null,                 -- name of the rule
    value double not null,              -- what the rule gives: its weight, where it has no reason to give less
    evidence_span_id text               -- the span that shows it
);
