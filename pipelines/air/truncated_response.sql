-- air/truncated_response: the response was cut at the limit of tokens.
--
-- reads   calls, air_weights
-- writes  air_findings
-- grain   rollout_id, call_id, evidence_span_id
-- within  rollout_id

select c.rollout_id, c.call_id, w.rule, w.weight as value, c.call_id as evidence_span_id
from calls as c
join air_weights as w on w.rule = 'truncated_response'
where c.finish_reason = 'length' and not c.abandoned
