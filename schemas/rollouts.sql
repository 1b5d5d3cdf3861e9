-- rollouts: runs of an agent on a task. Made by `derive`. Sorted by rollout_id.
create table rollouts (
    rollout_id text not null,           -- unique in the batch
    rollout_id_source text not null,    -- how ingest found it: explicit, trace, links, stitched or record
    task_id text,                       -- task that this is a run of
    task_id_source text,                -- where that came from
    group_id text not null,             -- rollouts compared with each other: the stated group, else the task, else the rollout itself
    attempt_id text,                    -- which try at the task
    session_id text,                    -- conversation or session
    split text not null,                -- train, val or test; train where nothing is stated, val for any other word
    status text not null,               -- succeeded, failed or unknown: as its newest record says, else by the last call and the outermost span
    failure_class text,                 -- timeout, infrastructure (its last call failed at the server, or it was cancelled), agent (failed otherwise), reward_missing (did not fail), or null
    policy_version bigint,              -- version of the policy; null where none is stated or calls differ
    reward double,                      -- outcome reward: the weighted sum over reward dimensions; null where no reward was stated
    reward_source text,                 -- who stated it: agent, grader, human or fallback
    task_input text,                    -- the task as JSON, where recorded
    calls bigint not null,              -- LLM calls
    tool_calls bigint not null,         -- tool calls
    tool_errors bigint not null,        -- tool calls with status error
    input_tokens bigint,                -- sum over calls, null where no call states it
    output_tokens bigint,               -- sum over calls
    start_ns bigint,                    -- first start, nanoseconds since 1970 UTC
    end_ns bigint,                      -- last end
    duration_ms double,                 -- from first start to last end
    source_file text not null           -- file of the first span
);
