-- derive/run_records: the newest record about each rollout that states how it ended.
--
-- reads   spans
-- writes  run_records
-- grain   rollout_id
-- within  rollout_id

with records as (
    select
        rollout_id,
        rollout_status,
        row_number() over (partition by rollout_id order by seq desc) as place
    from spans
    where kind = 'rollout' and rollout_status is not null
)
select rollout_id, rollout_status from records where place = 1
