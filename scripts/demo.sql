-- The reward of each iteration's rollouts, drawn, and what went wrong in them.
select batch,
       count(*) as rollouts,
       round(avg(reward), 3) as reward,
       repeat('#', cast(round(40 * avg(reward)) as bigint)) as curve,
       sum(tool_calls) as tool_calls,
       sum(tool_errors) as tool_errors
from rollouts
group by batch
order by batch;
