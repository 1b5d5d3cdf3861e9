-- derive/run_facts: what the spans of a rollout say about it together, calls or not.
-- Ids differ within a rollout only where its source is at odds with itself; then the smallest counts, so that order does not matter.
-- Times are those of the agent's own spans: a reward or a record may come days later.
--
-- reads   spans
-- writes  run_facts
-- grain   rollout_id
-- within  rollout_id

with spotted as (
    select
        rollout_id, rollout_id_source, seq, task_id, task_id_source, group_id, attempt_id, session_id, split, task_input,
        policy_version, source_file,
        case when kind not in ('reward', 'evaluator', 'rollout') then start_ns end as start_ns,
        case when kind not in ('reward', 'evaluator', 'rollout') then end_ns end as end_ns,
        kind = 'llm' and dedup_of is null as is_call,
        kind = 'llm' and dedup_of is null and (status = 'error' or coalesce(http_status, 0) >= 400) as is_failed_call,
        depth = 0 and dedup_of is null and kind in ('agent', 'chain', 'other') as is_root,
        coalesce(abandoned, false) as is_abandoned,
        status,
        http_status,
        lower(coalesce(error_type, '')) as error_type
    from spans
),
judged as (
    select
        rollout_id, rollout_id_source, seq, task_id, task_id_source, group_id, attempt_id, session_id, split, task_input,
        policy_version, source_file, start_ns, end_ns, is_call,
        is_failed_call and not is_abandoned as is_failed_call,
        -- the server's or the network's fault, and nothing that the agent did
        is_failed_call and not is_abandoned and (
            http_status >= 500
            or http_status in (408, 429)
            or error_type like '%connect%'
            or error_type like '%timeout%'
            or error_type like '%ratelimit%'
            or error_type like '%internalserver%'
            or error_type like '%serviceunavailable%'
            or error_type like '%overloaded%'
            or error_type like '%remoteprotocol%'
        ) as is_infrastructure,
        -- an interrupt or a command to the parent graph ends a span with an exception, but nothing went wrong
        is_root and status = 'error' and error_type not like '%interrupt%' and error_type not like '%parentcommand%' as is_root_failed,
        is_root and status = 'error' and (error_type like '%timeout%' or error_type like '%deadlineexceeded%') as is_root_late,
        is_root and status = 'ok' as is_root_ok
    from spotted
)
select
    rollout_id,
    min(rollout_id_source) as rollout_id_source,
    min(task_id) as task_id,
    min(task_id_source) as task_id_source,
    min(group_id) as group_id,
    min(attempt_id) as attempt_id,
    min(session_id) as session_id,
    min(lower(split)) as split,
    min(task_input) as task_input,
    case when min(policy_version) = max(policy_version) then min(policy_version) end as policy_version,
    min(start_ns) as start_ns,
    max(end_ns) as end_ns,
    coalesce(max(case when seq = 0 then source_file end), min(source_file)) as source_file,
    max(case when is_call then seq end) as last_call_seq,
    max(case when is_failed_call then seq end) as last_failed_seq,
    max(case when is_infrastructure then seq end) as last_infrastructure_seq,
    coalesce(max(case when is_root_failed then 1 else 0 end), 0) = 1 as is_root_failed,
    coalesce(max(case when is_root_late then 1 else 0 end), 0) = 1 as is_root_late,
    coalesce(max(case when is_root_ok then 1 else 0 end), 0) = 1 as is_root_ok
from judged
group by rollout_id
