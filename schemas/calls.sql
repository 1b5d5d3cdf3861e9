-- calls: LLM calls, duplicates left out. Made by `derive`. Sorted by rollout_id, step.
create table calls (
    rollout_id text not null,           -- run that the call belongs to
    call_id text not null,              -- span_id of the call, unique in the rollout
    step bigint not null,               -- position among the rollout's calls, from 0
    seq bigint not null,                -- position among all the rollout's spans
    agent text,                         -- role that asked
    agent_path text,                    -- agents from the outermost to this one, joined by /
    parent_span_id text,                -- span that the call was made in
    choice_index integer,               -- which of the n choices of one request
    provider text,                      -- as recorded
    model text,                         -- model that answered, else the one asked for
    response_id text,                   -- the API's id of the response
    policy_version bigint,              -- version of the policy that answered
    temperature double,                 -- sampling temperature
    top_p double,                       -- nucleus mass
    top_k bigint,                       -- candidates kept
    max_tokens bigint,                  -- limit of the response
    request_params text,                -- every request parameter as a JSON object
    messages text,                      -- JSON array: the prompt as chat messages
    tools text,                         -- JSON array: tools offered
    response text,                      -- JSON object: the response as one chat message
    finish_reason text,                 -- normalised
    status text not null,               -- ok or error
    error text,                         -- error message, where it failed
    http_status integer,                -- status of the request
    abandoned boolean not null,         -- the client gave up on this call and asked again
    refusal boolean,                    -- the response declines
    response_empty boolean,             -- neither text nor tool call
    input_tokens bigint,                -- as recorded
    output_tokens bigint,               -- as recorded
    prompt_token_ids integer[],         -- ids that the policy saw
    response_token_ids integer[],       -- ids that it sampled
    behaviour_logprobs real[],          -- temperature only
    sampled_logprobs real[],            -- after every processor
    token_source text not null,         -- engine where ids are recorded, none where train has to make them
    observation_hash text,              -- hash of the latest input message that is not the assistant's
    prompt_hash text,                   -- hash of the whole input
    start_ns bigint,                    -- nanoseconds since 1970 UTC
    end_ns bigint,                      -- nanoseconds since 1970 UTC
    latency_ms double,                  -- end minus start
    source_file text not null,          -- where it was read
    source_line bigint not null         -- line or message in that file
);
