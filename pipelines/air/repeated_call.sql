-- air/repeated_call: an agent called a tool with arguments that it had called it with before in this rollout.
--
-- reads   tool_calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- Every occurrence after the first is found, so that asking n times costs n - 1 weights. Handoffs take no arguments
-- and may happen twice: status `control` is left out.

with asked as (
    select rollout_id, call_id, span_id, seq, coalesce(agent, '') as agent, arguments_hash
    from tool_calls
    where arguments_hash is not null and status <> 'control'
),
repeated as (
    select rollout_id, agent, arguments_hash, min(seq) as first_seq
    from asked
    group by rollout_id, agent, arguments_hash
    having count(*) > 1
)
select a.rollout_id, a.call_id, w.rule, w.weight as value, a.span_id as evidence_span_id
from repeated as r
join asked as a on a.rollout_id = r.rollout_id and a.agent = r.agent and a.arguments_hash = r.arguments_hash
join air_weights as w on w.rule = 'repeated_call'
where a.seq > r.first_seq and a.call_id is not null
