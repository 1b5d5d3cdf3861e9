-- diff/differences: what differs between two makings of transitions, one row for each call and thing that differs.
--
-- reads   this_transitions, this_credits, this_edges, other_transitions, other_credits, other_edges
-- grain   rollout_id, call_id, place
-- params  $tolerance Float64          -- numbers closer than this, relative to the larger of 1 and their size, are equal
--
-- Transitions are the same where rollout and call are. What comes from what is told in that order, so that the first row of a call is its
-- cause as far as this can be seen.

with this_parts as (
    select t.rollout_id, t.call_id, t.step, t.agent, t.group_id, t.split, t.policy_version,
           t.prompt_token_ids, t.messages, t.tools, t.response_token_ids, t.response, t.behaviour_logprobs, t.sampled_logprobs,
           t.outcome, c.step_reward, t.return_value, t.advantage, t.weight, coalesce(t.drop_reason, 'used') as fate,
           c.reason, c.allocation, c.baseline, c.scale, c.method, c.comparison, c.level
    from this_credits as c
    right join this_transitions as t on t.rollout_id = c.rollout_id and t.call_id = c.call_id
),
this_rows as (
    select p.*, e.call_id is not null as is_placed, e.parent_call_id
    from this_edges as e
    right join this_parts as p on p.rollout_id = e.rollout_id and p.call_id = e.call_id
),
other_parts as (
    select t.rollout_id, t.call_id, t.step, t.agent, t.group_id, t.split, t.policy_version,
           t.prompt_token_ids, t.messages, t.tools, t.response_token_ids, t.response, t.behaviour_logprobs, t.sampled_logprobs,
           t.outcome, c.step_reward, t.return_value, t.advantage, t.weight, coalesce(t.drop_reason, 'used') as fate,
           c.reason, c.allocation, c.baseline, c.scale, c.method, c.comparison, c.level
    from other_credits as c
    right join other_transitions as t on t.rollout_id = c.rollout_id and t.call_id = c.call_id
),
other_rows as (
    select p.*, e.call_id is not null as is_placed, e.parent_call_id
    from other_edges as e
    right join other_parts as p on p.rollout_id = e.rollout_id and p.call_id = e.call_id
),
this_runs as (
    select distinct rollout_id from this_transitions
),
other_runs as (
    select distinct rollout_id from other_transitions
),
pairs as (
    select coalesce(t.rollout_id, o.rollout_id) as rollout_id, coalesce(t.call_id, o.call_id) as call_id,
           coalesce(t.step, o.step) as step, coalesce(t.agent, o.agent) as agent,
           t.call_id is null as no_this, o.call_id is null as no_other,
           t.fate as this_fate, o.fate as other_fate,
           (t.step is distinct from o.step) as is_step, t.step as this_step, o.step as other_step,
           (t.agent is distinct from o.agent) as is_agent, t.agent as this_agent, o.agent as other_agent,
           (t.group_id is distinct from o.group_id) as is_group, t.group_id as this_group, o.group_id as other_group,
           (t.split is distinct from o.split) as is_split, t.split as this_split, o.split as other_split,
           (t.policy_version is distinct from o.policy_version) as is_policy,
           t.policy_version as this_policy, o.policy_version as other_policy,
           (t.prompt_token_ids is distinct from o.prompt_token_ids) as is_prompt_ids,
           array_length(t.prompt_token_ids) as this_prompt_ids, array_length(o.prompt_token_ids) as other_prompt_ids,
           (t.messages is distinct from o.messages) or (t.tools is distinct from o.tools) as is_messages,
           t.messages as this_messages, o.messages as other_messages,
           (t.response_token_ids is distinct from o.response_token_ids) as is_response_ids,
           array_length(t.response_token_ids) as this_response_ids, array_length(o.response_token_ids) as other_response_ids,
           (t.response is distinct from o.response) as is_response, t.response as this_response, o.response as other_response,
           (t.behaviour_logprobs is distinct from o.behaviour_logprobs) or (t.sampled_logprobs is distinct from o.sampled_logprobs) as is_logprobs,
           t.is_placed and o.is_placed and (t.parent_call_id is distinct from o.parent_call_id) as is_parent,
           t.parent_call_id as this_parent, o.parent_call_id as other_parent,
           t.outcome as this_outcome, o.outcome as other_outcome,
           t.step_reward as this_step_reward, o.step_reward as other_step_reward,
           t.return_value as this_return, o.return_value as other_return,
           t.advantage as this_advantage, o.advantage as other_advantage,
           t.weight as this_weight, o.weight as other_weight,
           t.reason as this_reason, o.reason as other_reason,
           t.allocation as this_allocation, o.allocation as other_allocation,
           t.baseline as this_baseline, o.baseline as other_baseline,
           t.scale as this_scale, o.scale as other_scale,
           t.method || ', ' || t.comparison || ', ' || t.level as this_way, o.method || ', ' || o.comparison || ', ' || o.level as other_way
    from this_rows as t
    full join other_rows as o on o.rollout_id = t.rollout_id and o.call_id = t.call_id
),
placed as (
    select p.*, tr.rollout_id is null as no_this_run, orr.rollout_id is null as no_other_run
    from pairs as p
    left join this_runs as tr on tr.rollout_id = p.rollout_id
    left join other_runs as orr on orr.rollout_id = p.rollout_id
),
-- a number differs where one is missing, or where they are further apart than the tolerance
things (place, what) as (
    values (1, 'only_in_other'), (2, 'only_in_this'), (3, 'order'), (4, 'agent'), (5, 'group'), (6, 'split'), (7, 'policy'),
           (8, 'prompt_ids'), (9, 'messages'), (10, 'response_ids'), (11, 'response'), (12, 'logprobs'), (13, 'parent'),
           (14, 'outcome'), (15, 'step_reward'), (16, 'return'), (17, 'advantage'), (18, 'weight'), (19, 'dropped')
),
told as (
    select cast(d.place as bigint) as place, d.what, p.rollout_id, p.step, p.agent, p.call_id,
           case when p.no_this or p.no_other then (d.place = 1 and p.no_this) or (d.place = 2 and p.no_other)
                else case d.place
                    when 3 then p.is_step
                    when 4 then p.is_agent
                    when 5 then p.is_group
                    when 6 then p.is_split
                    when 7 then p.is_policy
                    when 8 then p.is_prompt_ids
                    when 9 then p.is_messages
                    when 10 then p.is_response_ids
                    when 11 then p.is_response
                    when 12 then p.is_logprobs
                    when 13 then p.is_parent
                    when 14 then (p.this_outcome is null) <> (p.other_outcome is null)
                        or abs(p.this_outcome - p.other_outcome) > $tolerance * greatest(1, abs(p.this_outcome), abs(p.other_outcome))
                    when 15 then (p.this_step_reward is null) <> (p.other_step_reward is null)
                        or abs(p.this_step_reward - p.other_step_reward) > $tolerance * greatest(1, abs(p.this_step_reward), abs(p.other_step_reward))
                    when 16 then (p.this_return is null) <> (p.other_return is null)
                        or abs(p.this_return - p.other_return) > $tolerance * greatest(1, abs(p.this_return), abs(p.other_return))
                    when 17 then (p.this_advantage is null) <> (p.other_advantage is null)
                        or abs(p.this_advantage - p.other_advantage) > $tolerance * greatest(1, abs(p.this_advantage), abs(p.other_advantage))
                    when 18 then abs(p.this_weight - p.other_weight) > $tolerance * greatest(1, abs(p.this_weight), abs(p.other_weight))
                    when 19 then p.this_fate <> p.other_fate
                end
           end as differs,
           case d.place
               when 2 then p.this_fate
               when 3 then cast(p.this_step as text)
               when 4 then p.this_agent
               when 5 then p.this_group
               when 6 then p.this_split
               when 7 then cast(p.this_policy as text)
               when 8 then cast(p.this_prompt_ids as text) || ' ids'
               when 9 then p.this_messages
               when 10 then cast(p.this_response_ids as text) || ' ids'
               when 11 then p.this_response
               when 13 then p.this_parent
               when 14 then cast(p.this_outcome as text)
               when 15 then cast(p.this_step_reward as text)
               when 16 then cast(p.this_return as text)
               when 17 then cast(p.this_advantage as text)
               when 18 then cast(p.this_weight as text)
               when 19 then p.this_fate
           end as this,
           case d.place
               when 1 then p.other_fate
               when 3 then cast(p.other_step as text)
               when 4 then p.other_agent
               when 5 then p.other_group
               when 6 then p.other_split
               when 7 then cast(p.other_policy as text)
               when 8 then cast(p.other_prompt_ids as text) || ' ids'
               when 9 then p.other_messages
               when 10 then cast(p.other_response_ids as text) || ' ids'
               when 11 then p.other_response
               when 13 then p.other_parent
               when 14 then cast(p.other_outcome as text)
               when 15 then cast(p.other_step_reward as text)
               when 16 then cast(p.other_return as text)
               when 17 then cast(p.other_advantage as text)
               when 18 then cast(p.other_weight as text)
               when 19 then p.other_fate
           end as other,
           case d.place
               when 1 then case when p.no_this_run then 'this has no such rollout' else 'this has the rollout, but no such call' end
               when 2 then case when p.no_other_run then 'other has no such rollout' else 'other has the rollout, but no such call' end
               when 8 then case when p.this_prompt_ids = p.other_prompt_ids then 'as many ids, but others' end
               when 9 then case when p.this_messages = p.other_messages then 'the tools that were offered differ' end
               when 10 then case when p.this_response_ids = p.other_response_ids then 'as many ids, but others' end
               when 13 then case when p.this_parent is null then 'a sequence begins here in this'
                                 when p.other_parent is null then 'a sequence begins here in other' end
               when 16 then case when p.this_way <> p.other_way then p.this_way || ' -> ' || p.other_way end
               when 17 then coalesce('(' || cast(p.this_return as text) || ' - ' || cast(p.this_baseline as text) || ') / '
                                     || cast(p.this_scale as text) || ' * ' || cast(p.this_allocation as text), p.this_reason)
                            || ' -> '
                            || coalesce('(' || cast(p.other_return as text) || ' - ' || cast(p.other_baseline as text) || ') / '
                                        || cast(p.other_scale as text) || ' * ' || cast(p.other_allocation as text), p.other_reason)
               when 19 then p.this_reason || ' -> ' || p.other_reason
           end as why
    from placed as p
    cross join things as d
)
select what, rollout_id, step, agent, call_id, this, other, why, place
from told
where differs
