-- derive/counts: what is worth telling about the run of this stage.
--
-- reads   rewards, rollouts, run_facts
-- writes  counts
-- grain   name

with with_calls as (
    select count(*) as rollouts from rollouts
),
all_runs as (
    select count(*) as runs from run_facts
)
select 'rewards_ambiguous' as name, cast(count(*) as bigint) as value from rewards where ambiguous
union all
select 'rewards_unattached' as name, cast(count(*) as bigint) as value from rewards where attached_by = 'none' and not ambiguous
union all
select 'rollouts_without_reward' as name, cast(count(*) as bigint) as value from rollouts where reward is null
union all
select 'rollouts_without_calls' as name, cast(all_runs.runs - with_calls.rollouts as bigint) as value from all_runs cross join with_calls
