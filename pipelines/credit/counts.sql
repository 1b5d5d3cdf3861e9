-- credit/counts: how many calls there are to learn from, and how many were dropped for each reason.
--
-- reads   transitions
-- writes  counts
-- grain   name

select coalesce('dropped_' || drop_reason, 'to_learn_from') as name, cast(count(*) as bigint) as value
from transitions
group by drop_reason
