-- air/repeated_call: an agent called a tool with arguments that it had called it with before in this rollout.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
--
-- Every occurrence after the first is found, so that asking n times costs n - 1 weights. Handoffs take no arguments
-- and may happen twice: status `control` is left out.

with counted as (
    select rollout_id, call_id, span_id,
           cast(row_number() over (
               partition by rollout_id, coalesce(agent, ''), arguments_hash
               order by seq, span_id
           ) as bigint) as occurrence
    from tool_calls
    where arguments_hash is not null and status <> 'control'
)
select c.rollout_id, c.call_id, w.rule, w.weight as value, c.span_id as evidence_span_id
from counted as c
join air_weights as w on w.rule = 'repeated_call'
where c.occurrence > 1 and c.call_id is not null
