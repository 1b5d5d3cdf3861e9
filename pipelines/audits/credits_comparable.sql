-- audits/credits_comparable: every rollout is alone in its group, so that there is nothing to compare. Run each task several times,
-- state the groups in the traces, or set `credit.comparison = "batch_mean"` (or `none`, for SFT), or `credit.singleton = "keep"`.
--
-- reads   credits
-- audits  credits
-- params  $singleton_keep Boolean     -- what is alone keeps its reward as advantage

select cast(count(*) as bigint) as calls
from credits
where verdict not in ('no_reward', 'infrastructure_failure')
having count(*) > 0 and count(*) = count(case when verdict = 'singleton' then 1 end) and not $singleton_keep
