-- tool_calls: tool calls, duplicates left out. Made by `derive`. Sorted by rollout_id, seq.
create table tool_calls (
    rollout_id text not null,           -- run that the call belongs to
    span_id text not null,              -- unique in the rollout
    seq bigint not null,                -- position among all the rollout's spans
    call_id text,                       -- LLM call that asked for it
    call_id_source text,                -- how the asker was found: id, order or message
    step bigint,                        -- step of that LLM call
    agent text,                         -- role that asked
    name text,                          -- tool; `malformed tool call` where the model wrote something that could not be read as a call
    tool_call_id text,                  -- the response's id of the call
    arguments text,                     -- as recorded, JSON or text
    arguments_valid boolean,            -- arguments parse as a JSON object
    arguments_hash text,                -- hash of name and arguments with keys sorted
    offered boolean,                    -- the asker was offered a tool of this name
    result text,                        -- as recorded
    result_empty boolean,               -- nothing came back
    status text not null,               -- ok, error, control or unknown
    status_evidence text,               -- rung of the ladder that decided
    error text,                         -- error message, where there is one
    start_ns bigint,                    -- nanoseconds since 1970 UTC
    end_ns bigint,                      -- nanoseconds since 1970 UTC
    latency_ms double,                  -- end minus start
    source_file text not null,          -- where it was read
    source_line bigint not null         -- line or message in that file
);
