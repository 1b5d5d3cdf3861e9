-- derive/reward_links: what the rewards that name a span are about.
-- A call is meant by its own span, or by that of a tool call that it asked for. Another span without a parent is the run as a whole.
-- A span in between (a step of a chain, an agent under another) holds several calls: which one is meant is not said.
--
-- reads   spans, stated_rewards
-- writes  reward_links
-- grain   rollout_id, reward_id
-- within  rollout_id

with linked as (
    select rollout_id, reward_id, target from stated_rewards where target is not null
)
select
    linked.rollout_id,
    linked.reward_id,
    case
        when spans.kind = 'llm' then coalesce(spans.dedup_of, spans.span_id)
        when spans.kind in ('tool', 'tool_request', 'handoff') then spans.asked_by
    end as call_id,
    spans.depth = 0 and spans.kind not in ('llm', 'tool', 'tool_request', 'handoff', 'reward') as is_whole
from linked
inner join spans on spans.rollout_id = linked.rollout_id and spans.span_id = linked.target
