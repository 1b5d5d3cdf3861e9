-- credit/edges_previous: an edge from each answered call to the one before it, where its prompt begins with that one's prompt and response.
--
-- reads   calls
-- writes  edges
-- grain   rollout_id, step
-- within  rollout_id
--
-- Only the call just before is tried. Of calls with equal prompts the last one stands, and failed ones are no part of it.
-- Source: how Agent Lightning 1.0 merges the turns of a rollout into trajectories.

with answered as (
    select rollout_id, call_id, step, prompt_token_ids, response_token_ids,
           cast(row_number() over (
               partition by rollout_id, array_to_string(prompt_token_ids, ' ')
               order by step desc
           ) as bigint) as later
    from calls
    where status <> 'error' and not abandoned and prompt_token_ids is not null and array_length(response_token_ids) > 0
),
placed as (
    select rollout_id, call_id, step, prompt_token_ids, response_token_ids,
           cast(row_number() over (partition by rollout_id order by step) as bigint) as place
    from answered
    where later = 1
),
ended as (
    select rollout_id, call_id, place, array_concat(prompt_token_ids, response_token_ids) as token_ids
    from placed
),
joined as (
    select p.rollout_id, p.call_id, p.step,
           case when array_slice(p.prompt_token_ids, 1, cast(array_length(e.token_ids) as bigint)) = e.token_ids then e.call_id end as parent_call_id,
           cast(array_length(p.prompt_token_ids) as bigint) - cast(array_length(e.token_ids) as bigint) as observation_tokens,
           array_length(p.response_token_ids) as response_tokens
    from ended as e
    right join placed as p on p.rollout_id = e.rollout_id and p.place = e.place + 1
)
select rollout_id, call_id, step, parent_call_id,
       cast(sum(case when parent_call_id is null then 1 else 0 end) over (
           partition by rollout_id order by step rows between unbounded preceding and current row
       ) as bigint) - 1 as sequence,
       case when parent_call_id is not null then observation_tokens end as observation_tokens,
       cast(response_tokens as bigint) as response_tokens
from joined
