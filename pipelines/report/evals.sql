-- report/evals: what each answer of each evaluation earned.
--
-- reads   evals

select split, policy_version, task_id, sample, reward
from evals
order by split, policy_version, task_id, sample
