-- derive/calls: one row for each LLM call that is kept, steps counted from 0.
--
-- reads   spans
-- writes  calls
-- grain   rollout_id, step
-- within  rollout_id
-- order   rollout_id, seq

select
    rollout_id,
    span_id as call_id,
    cast(row_number() over (partition by rollout_id order by seq) as bigint) - 1 as step,
    seq,
    agent,
    agent_path,
    parent_span_id,
    choice_index,
    provider,
    coalesce(model, model_requested) as model,
    response_id,
    policy_version,
    temperature,
    top_p,
    top_k,
    max_tokens,
    request_params,
    input_messages as messages,
    tools,
    -- the one message of the response, out of its JSON array
    nullif(rtrim(ltrim(output_messages, '['), ']'), '') as response,
    finish_reason,
    case when status = 'error' or http_status >= 400 then 'error' else 'ok' end as status,
    case when status = 'error' or http_status >= 400 then coalesce(status_message, error_type) end as error,
    http_status,
    coalesce(abandoned, false) as abandoned,
    refusal,
    response_empty,
    input_tokens,
    output_tokens,
    prompt_token_ids,
    response_token_ids,
    behaviour_logprobs,
    sampled_logprobs,
    case when prompt_token_ids is not null and response_token_ids is not null then 'engine' else 'none' end as token_source,
    observation_hash,
    prompt_hash,
    start_ns,
    end_ns,
    cast(end_ns - start_ns as double) / 1e6 as latency_ms,
    source_file,
    source_line
from spans
where kind = 'llm' and dedup_of is null
