-- What each run earned, and what its calls are worth to the trainer.
select r.task_id, r.rollout_id, r.calls, r.tool_errors as errors, r.reward,
       round(a.air, 3) as air, round(t.advantage, 3) as advantage
from rollouts r
join (select rollout_id, avg(advantage) as advantage from transitions group by rollout_id) t on t.rollout_id = r.rollout_id
left join (select rollout_id, sum(value) as air from air_rewards group by rollout_id) a on a.rollout_id = r.rollout_id
order by r.task_id, advantage desc, r.rollout_id;
