-- derive/rollouts: one row for each run that made an LLM call.
-- Status: what the newest rollout record says; else failed where the last call or the outermost span failed, succeeded where the
-- outermost span says so, unknown otherwise. Failure class, the first that holds: timeout (the record, or the outermost span, says so),
-- infrastructure (the last call failed at the server or on the way to it, or somebody cancelled the run), agent (any other failure),
-- reward_missing (it did not fail, and nobody said what it was worth).
-- Split: train where nothing is stated; test; any other word is val, so that what is not meant for training is never trained on.
--
-- reads   calls, outcomes, run_facts, run_records, tool_calls
-- writes  rollouts
-- grain   rollout_id
-- within  rollout_id

with call_counts as (
    select
        rollout_id,
        cast(count(*) as bigint) as calls,
        cast(sum(input_tokens) as bigint) as input_tokens,
        cast(sum(output_tokens) as bigint) as output_tokens,
        count(policy_version) as stated_versions,
        case when min(policy_version) = max(policy_version) then min(policy_version) end as policy_version
    from calls
    group by rollout_id
),
tool_counts as (
    select
        rollout_id,
        cast(count(*) as bigint) as tool_calls,
        cast(sum(case when status = 'error' then 1 else 0 end) as bigint) as tool_errors
    from tool_calls
    group by rollout_id
),
joined as (
    select
        call_counts.rollout_id, call_counts.calls, call_counts.input_tokens, call_counts.output_tokens,
        case when call_counts.stated_versions > 0 then call_counts.policy_version else run_facts.policy_version end as policy_version,
        coalesce(tool_counts.tool_calls, 0) as tool_calls,
        coalesce(tool_counts.tool_errors, 0) as tool_errors,
        outcomes.reward, outcomes.source as reward_source,
        coalesce(run_records.rollout_status, 'running') as record,
        run_facts.rollout_id_source, run_facts.task_id, run_facts.task_id_source, run_facts.group_id, run_facts.attempt_id,
        run_facts.session_id, run_facts.split, run_facts.task_input, run_facts.start_ns, run_facts.end_ns, run_facts.source_file,
        coalesce(run_facts.last_failed_seq = run_facts.last_call_seq, false) as is_call_failed,
        coalesce(run_facts.last_infrastructure_seq = run_facts.last_call_seq, false) as is_infrastructure,
        run_facts.is_root_failed, run_facts.is_root_late, run_facts.is_root_ok
    from call_counts
    inner join run_facts on run_facts.rollout_id = call_counts.rollout_id
    left join run_records on run_records.rollout_id = call_counts.rollout_id
    left join tool_counts on tool_counts.rollout_id = call_counts.rollout_id
    left join outcomes on outcomes.rollout_id = call_counts.rollout_id
),
judged as (
    select
        rollout_id, calls, input_tokens, output_tokens, policy_version, tool_calls, tool_errors, reward, reward_source, record,
        rollout_id_source, task_id, task_id_source, group_id, attempt_id, session_id, split, task_input, start_ns, end_ns, source_file,
        is_infrastructure, is_root_late,
        case
            when record = 'succeeded' then 'succeeded'
            when record in ('failed', 'timeout', 'cancelled') then 'failed'
            when is_call_failed or is_root_failed then 'failed'
            when is_root_ok then 'succeeded'
            else 'unknown'
        end as status
    from joined
)
select
    rollout_id,
    rollout_id_source,
    task_id,
    task_id_source,
    coalesce(group_id, task_id, rollout_id) as group_id,
    attempt_id,
    session_id,
    case
        when split is null or split in ('train', 'training') then 'train'
        when split = 'test' then 'test'
        else 'val'
    end as split,
    status,
    case
        when record = 'timeout' then 'timeout'
        when status = 'failed' and (is_infrastructure or record = 'cancelled') then 'infrastructure'
        when status = 'failed' and is_root_late then 'timeout'
        when status = 'failed' then 'agent'
        when reward is null then 'reward_missing'
    end as failure_class,
    policy_version,
    reward,
    reward_source,
    task_input,
    calls,
    tool_calls,
    tool_errors,
    input_tokens,
    output_tokens,
    start_ns,
    end_ns,
    cast(end_ns - start_ns as double) / 1e6 as duration_ms,
    source_file
from judged
