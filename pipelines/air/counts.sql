-- air/counts: how often each rule found something, and failed tool calls that no LLM call is known to have asked for.
--
-- reads   air_rewards, tool_calls
-- writes  counts
-- grain   name

select rule as name, cast(count(*) as bigint) as value
from air_rewards
group by rule
union all
select 'failed_tools_without_asker' as name, cast(count(*) as bigint) as value
from tool_calls
where status = 'error' and call_id is null
having count(*) > 0
