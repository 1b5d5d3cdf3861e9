-- rewards: rewards stated by the agent, a grader or a human, one row per dimension. Made by `derive`. Sorted by rollout_id, seq.
create table rewards (
    rollout_id text not null,           -- run that it is about
    reward_id text not null,            -- span_id of the reward, unique in the rollout
    seq bigint not null,                -- position among all the rollout's spans
    name text not null,                 -- dimension
    value double,                       -- null where only a label was given
    label text,                         -- label beside or instead of a value
    source text,                        -- agent, grader, human or fallback
    comment text,                       -- as recorded
    is_primary boolean not null,        -- main dimension of its event
    is_outcome boolean not null,        -- the value of this dimension that counts for the whole rollout: one about the run, else its last; one linked to a call only where every reward is
    call_id text,                       -- LLM call that it is attached to
    attached_by text not null,          -- link (stated), order (the call that ended last before it), rollout (about the whole run) or none
    ambiguous boolean not null,         -- several calls could have been meant: kept, and attached to none
    span_id text                        -- the span that it was explicitly attached to
);
