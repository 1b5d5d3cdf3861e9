-- What each policy that was evaluated earned, drawn and greedy, on the splits that it was not trained on.
select policy_version,
       round(avg(reward) filter (where split = 'val' and temperature > 0), 3) as val,
       round(avg(reward) filter (where split = 'val' and temperature = 0), 3) as val_greedy,
       round(avg(reward) filter (where split = 'test' and temperature > 0), 3) as test,
       round(avg(reward) filter (where split = 'test' and temperature = 0), 3) as test_greedy
from evals
group by policy_version
order by policy_version;
