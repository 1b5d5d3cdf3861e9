-- credit/transitions: every call with its advantage, and the first reason there is for not learning from it.
--
-- reads   calls, rollouts, credits, trained_agents
-- writes  transitions
-- grain   group_id, rollout_id, step
-- within  rollout_id
-- params  $all_agents Boolean         -- train every agent; false: those in trained_agents
--         $keep_equal Boolean         -- calls whose rollout was compared with nothing that differs stay (true) or are dropped (false)
--         $mask_truncated Utf8        -- none, call (a truncated response is dropped) or rollout (with it every call of its rollout)
--
-- Advantages are there before anything is dropped, so that no drop changes a comparison. Token ids and messages pass through one join.

with lasts as (
    select rollout_id, max(step) as step
    from credits
    group by rollout_id
),
truncated as (
    select distinct rollout_id
    from calls
    where finish_reason = 'length' and not abandoned
),
runs as (
    select r.rollout_id, r.group_id, r.task_id, r.split, l.step as last_step,
           case when t.rollout_id is not null and $mask_truncated = 'rollout' then 'overlong' end as overlong_reason
    from lasts as l
    join rollouts as r on r.rollout_id = l.rollout_id
    left join truncated as t on t.rollout_id = r.rollout_id
),
credited as (
    select k.rollout_id, k.step, k.agent, k.outcome, k.return_value, k.advantage, k.verdict, k.allocation,
           r.group_id, r.task_id, r.split, r.overlong_reason,
           k.step_reward + case when k.step = r.last_step then coalesce(k.outcome, cast(0 as double)) else cast(0 as double) end as reward
    from runs as r
    join credits as k on k.rollout_id = r.rollout_id
),
dropped as (
    select k.rollout_id, k.step, k.outcome, k.return_value, k.advantage, k.group_id, k.task_id, k.split, k.reward, k.overlong_reason,
           case when k.verdict = 'infrastructure_failure' then 'infrastructure_failure'
                when k.split <> 'train' then 'not_train'
                when not $all_agents and a.agent is null then 'other_agent'
                when k.verdict = 'no_reward' then 'no_reward'
                when k.advantage is null then 'no_estimate'
           end as rollout_reason,
           case when k.verdict = 'singleton' and k.advantage = 0 and not $keep_equal then 'singleton'
                when k.verdict = 'no_variance' and not $keep_equal then 'no_variance'
                when k.allocation = 0 then 'no_credit'
           end as credit_reason
    from trained_agents as a
    right join credited as k on k.agent = a.agent
)
select d.group_id, d.task_id, c.rollout_id, c.call_id, c.step, c.agent, d.split, c.policy_version, c.model,
       c.messages, c.tools, c.response, c.prompt_token_ids, c.response_token_ids, c.behaviour_logprobs, c.sampled_logprobs,
       c.token_source, c.temperature, c.top_p, c.top_k, c.finish_reason, c.observation_hash,
       d.reward, d.outcome, d.return_value, d.advantage, cast(1 as double) as weight,
       case when d.rollout_reason is not null then d.rollout_reason
            when c.abandoned then 'abandoned'
            when c.status = 'error' then 'failed_call'
            when c.response_token_ids is null and (c.response is null or c.response_empty) then 'empty_response'
            when d.overlong_reason is not null then d.overlong_reason
            when c.finish_reason = 'length' and $mask_truncated = 'call' then 'overlong'
            else d.credit_reason
       end as drop_reason
from dropped as d
join calls as c on c.rollout_id = d.rollout_id and c.step = d.step
