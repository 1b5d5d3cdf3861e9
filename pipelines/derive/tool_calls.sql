-- derive/tool_calls: one row for each tool call that is kept; a handoff is a tool call that only changes who acts.
--
-- reads   calls, spans
-- writes  tool_calls
-- grain   rollout_id, seq
-- within  rollout_id

with asked as (
    select rollout_id, call_id, step, agent from calls
)
select
    spans.rollout_id,
    spans.span_id,
    spans.seq,
    asked.call_id,
    case when asked.call_id is not null then spans.asked_by_source end as call_id_source,
    asked.step,
    coalesce(asked.agent, spans.agent) as agent,
    coalesce(spans.tool_name, spans.name) as name,
    spans.tool_call_id,
    spans.tool_arguments as arguments,
    spans.arguments_valid,
    spans.arguments_hash,
    spans.tool_offered as offered,
    spans.tool_result as result,
    spans.result_empty,
    case when spans.kind = 'handoff' then 'control' else coalesce(spans.tool_status, 'unknown') end as status,
    case when spans.kind = 'handoff' then 'control_flow' else spans.tool_status_evidence end as status_evidence,
    case when spans.kind = 'tool' and spans.tool_status = 'error' then coalesce(spans.status_message, spans.error_type) end as error,
    spans.start_ns,
    spans.end_ns,
    cast(spans.end_ns - spans.start_ns as double) / 1e6 as latency_ms,
    spans.source_file,
    spans.source_line
from spans
left join asked on asked.rollout_id = spans.rollout_id and asked.call_id = spans.asked_by
where spans.kind in ('tool', 'handoff') and spans.dedup_of is null
