-- diff/totals: the size of both sides, and how many calls differ in anything.
--
-- reads   differences, this_transitions, other_transitions
-- grain   one row

with this_calls as (
    select count(*) as calls from this_transitions
),
other_calls as (
    select count(*) as calls from other_transitions
),
different as (
    select distinct rollout_id, call_id from differences
),
counted as (
    select count(*) as calls from different
)
select t.calls as this, o.calls as other, c.calls as different
from this_calls as t
cross join other_calls as o
cross join counted as c
