-- spans: what was recorded, one row per span, step, event or reward, whatever format it came in. Made by `ingest`.
-- Contents that have a column of their own are not repeated in `attributes`; everything else is there, untouched.
-- Sorted by rollout_id, seq. Duplicates stay as rows that name the row kept in `dedup_of`.
create table spans (
    rollout_id text not null,           -- the run of an agent on a task that this belongs to
    rollout_id_source text not null,    -- how it was found: explicit, trace, links, stitched or record
    seq bigint not null,                -- position in the rollout, from 0: the total order (start, depth, end, source position)
    span_id text not null,              -- unique in its rollout; `<span>:<tool call id>` for a tool call known from messages only, `<span>#<n>` for further choices or reward dimensions, `<span>~<n>` where an id was recorded again
    parent_span_id text,                -- as recorded, null for a root; of a call that our server recorded, its client's span of the same call
    trace_id text,                      -- lower-case hex for OpenTelemetry, else verbatim
    depth integer not null,             -- ancestors present in the rollout
    kind text not null,                 -- llm, tool, tool_request, agent, chain, handoff, guardrail, retriever, embedding, evaluator, reward, message, setup, rollout or other
    kind_evidence text,                 -- the attribute, field or rule that decided the kind
    name text,                          -- as recorded
    dedup_of text,                      -- span_id of the row that is kept for the same event, null where this row is the one
    attempt_id text,                    -- which try at the task, as recorded
    session_id text,                    -- conversation or session, as recorded; groups rollouts, never makes one
    group_id text,                      -- group stated by the source (samples of one task)
    task_id text,                       -- task that the rollout is a run of
    task_id_source text,                -- where the task id came from: configured, reference, metadata, group, record or prompt (a hash of system and first user message)
    task_input text,                    -- the task itself as JSON, where a rollout record holds it
    split text,                         -- train, val or test, where stated
    policy_version bigint,              -- version of the policy that answered, where stated
    rollout_status text,                -- rows of kind rollout: succeeded, failed, timeout, cancelled or running, as stated
    start_ns bigint,                    -- nanoseconds since 1970 UTC; null where the format has no times
    end_ns bigint,                      -- nanoseconds since 1970 UTC
    time_precision_ns bigint,           -- 1, 1000 or 1000000: what the source's clock could tell
    status text not null,               -- the span's own status: unset, ok or error (a tool call's is tool_status)
    status_message text,                -- as recorded
    error_type text,                    -- exception or error class, as recorded
    agent text,                         -- role that acted: nearest agent by the rules of ingest
    agent_path text,                    -- agents from the outermost to this one, joined by /
    -- LLM calls
    provider text,                      -- openai, anthropic, vllm, ... as recorded
    model_requested text,               -- model asked for
    model text,                         -- model that answered
    response_id text,                   -- the API's id of the response
    choice_index integer,               -- which of the n choices of one request this row is, from 0
    temperature double,                 -- sampling temperature asked for
    top_p double,                       -- nucleus mass asked for, 0 to 1
    top_k bigint,                       -- candidates kept, as asked for
    max_tokens bigint,                  -- limit of the response in tokens, as asked for
    request_params text,                -- every request parameter as a JSON object
    input_messages text,                -- JSON array of normalised chat messages (role, content, name, reasoning, tool_calls, tool_call_id, is_error, parts)
    output_messages text,               -- JSON array with the one normalised message of the response
    tools text,                         -- JSON array of the tools offered: name, description, parameters
    finish_reason text,                 -- normalised: stop, length, tool_calls, content_filter, error or as recorded
    input_tokens bigint,                -- tokens of the prompt, as recorded
    output_tokens bigint,               -- tokens of the response, as recorded
    cached_tokens bigint,               -- tokens of the prompt that a cache held
    reasoning_tokens bigint,            -- tokens of the response spent on reasoning
    stream boolean,                     -- whether the response was streamed
    http_status integer,                -- status of the request, where recorded
    abandoned boolean,                  -- true: the client gave up on this call and asked again
    prompt_token_ids integer[],         -- ids that the policy saw; null = not recorded, never empty for that
    response_token_ids integer[],       -- ids that the policy sampled
    behaviour_logprobs real[],          -- log-probability of each sampled id under temperature alone, natural log
    sampled_logprobs real[],            -- log-probability of each sampled id after every processor, natural log
    observation_hash text,              -- hash of the latest input message that is not the assistant's
    prompt_hash text,                   -- hash of the whole input
    refusal boolean,                    -- the response declines (API refusal field or content filter)
    response_empty boolean,             -- neither text nor a tool call in the response
    -- tool calls
    tool_name text,                     -- name of the tool called
    tool_call_id text,                  -- the asking response's id of the call
    asked_by text,                      -- span_id of the LLM call that asked for it
    asked_by_source text,               -- how the asker was found: id, order or message
    tool_arguments text,                -- as recorded, JSON or text
    arguments_valid boolean,            -- arguments parse as a JSON object (null where none were recorded)
    arguments_hash text,                -- hash of the tool's name and its arguments with keys sorted
    tool_offered boolean,               -- whether the asker was offered a tool of this name; null where the offer is not recorded
    tool_result text,                   -- as recorded, JSON or text
    result_empty boolean,               -- nothing, an empty list, an empty object or null came back (null where no result was recorded)
    tool_status text,                   -- ok, error, control (a handoff or an interrupt, no failure) or unknown
    tool_status_evidence text,          -- rung that decided: span_status, result_flag, exit_code, retry_marker, result_text, result_seen, control_flow or none
    -- rewards
    reward_name text,                   -- dimension
    reward_value double,                -- finite
    reward_label text,                  -- label, where a grader gives one beside or instead of a value
    reward_source text,                 -- who says so: agent, grader, human or fallback, as far as stated
    reward_comment text,                -- as recorded
    reward_primary boolean,             -- the main dimension of its event
    reward_target text,                 -- span_id that it is explicitly attached to, null where it says nothing
    reward_final boolean,               -- stated to be about the whole rollout
    -- provenance and the untouched rest
    service_name text,                  -- resource attribute service.name
    scope_name text,                    -- instrumentation library
    scope_version text,                 -- its version
    events text,                        -- JSON array of span events: name, time_ns, attributes
    links text,                         -- JSON array of span links: trace_id, span_id, attributes
    attributes text,                    -- JSON object: every attribute that has no column here, values as recorded
    resource text,                      -- JSON object of the resource's attributes
    source_file text not null,          -- path or URL as given to ingest
    source_line bigint not null,        -- line or message number in the file, from 1
    source_position integer not null,   -- position in that line or message, from 0
    source_format text not null,        -- container: otlp_json, otlp_proto, otel_console, agent_lightning, agent_lightning_v1, openai_agents, langsmith, chat, langfuse, phoenix, mlflow, verifiers, atif, swe_agent, adp, claude_code, codex, gemini
    convention text                     -- attribute convention: genai, openinference, traceloop, agentops, ... null where the container decides
);
