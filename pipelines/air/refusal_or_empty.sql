-- air/refusal_or_empty: the response declines, or holds neither text nor a tool call.
--
-- reads   calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id
--
-- A request that failed has no response either: that is the server's fault, not the policy's, and is left out.

select c.rollout_id, c.call_id, w.rule, w.weight as value, c.call_id as evidence_span_id
from calls as c
join air_weights as w on w.rule = 'refusal_or_empty'
where (c.refusal or c.response_empty) and c.status = 'ok' and not c.abandoned
