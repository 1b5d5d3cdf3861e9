-- air/guardrail_tripped: a guardrail stopped what the model wrote.
--
-- reads   spans, calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- A guardrail has tripped where its span failed or says `triggered`. It is given to the call before it, the same agent's
-- where there is one. A guardrail before every call judged the user's input: the policy did nothing, nothing is found.

with tripped as (
    select rollout_id, span_id, seq, coalesce(agent, '') as agent
    from spans
    where kind = 'guardrail' and dedup_of is null
      and (status = 'error' or coalesce(json_get_bool(attributes, 'triggered'), false))
),
earlier as (
    select t.rollout_id, t.span_id, c.call_id,
           cast(row_number() over (
               partition by t.rollout_id, t.span_id
               order by case when coalesce(c.agent, '') = t.agent then 0 else 1 end, c.seq desc
           ) as bigint) as distance
    from tripped as t
    join calls as c on c.rollout_id = t.rollout_id and c.seq < t.seq
)
select e.rollout_id, e.call_id, w.rule, w.weight as value, e.span_id as evidence_span_id
from earlier as e
join air_weights as w on w.rule = 'guardrail_tripped'
where e.distance = 1
