-- audits/credits_finite: advantages are finite, and missing only where the verdict says why.
--
-- reads   credits
-- audits  credits
-- within  rollout_id

select rollout_id, call_id, verdict, advantage
from credits
where not (abs(coalesce(advantage, cast(0 as double))) < cast('1e300' as double))
   or (advantage is null) <> (verdict in ('no_reward', 'infrastructure_failure', 'no_estimate'))
