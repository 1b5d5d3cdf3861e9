-- credit/units_of_rows: every rollout counts once for each call that becomes a row of the trainer: answered, by an agent that is trained.
--
-- reads   calls, trained_agents
-- writes  units
-- grain   rollout_id
-- within  rollout_id
-- params  $all_agents Boolean         -- train every agent; false: those in trained_agents

with answered as (
    select rollout_id, agent
    from calls
    where status <> 'error' and not abandoned
      and (response_token_ids is not null or (response is not null and not coalesce(response_empty, false)))
)
select c.rollout_id, cast(count(*) as bigint) as units
from trained_agents as a
right join answered as c on c.agent = a.agent
where $all_agents or a.agent is not null
group by c.rollout_id
