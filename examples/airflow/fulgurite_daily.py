"""One batch a day on Airflow 3: ingest, then build. A batch that is fresh already is skipped (exit code 99), whatever is stale is redone."""
import json
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.timetables.interval import CronDataIntervalTimetable

LAKE = "s3://traces/lake"
DAY = "{{ data_interval_start | ds }}"

with DAG(
    dag_id="fulgurite_daily",
    start_date=datetime(2026, 11, 1),
    schedule=CronDataIntervalTimetable("10 2 * * *", timezone="UTC"),
    max_active_runs=1,
    # A batch is redone whole, so a retry is safe.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5), "execution_timeout": timedelta(hours=2)},
):

    def fulgurite(task_id, arguments, **options):
        # --json prints the summary last of all, which is what BashOperator pushes as the XCom.
        command = f"fulgurite {arguments} --lake {LAKE} --batch {DAY} --json --skip-exit-code 99"
        return BashOperator(task_id=task_id, bash_command=command, output_processor=json.loads, **options)

    ingest = fulgurite("ingest", f"ingest s3://traces/raw/{DAY}/")
    # A day that was ingested before may still have a stale stage after it, where settings or SQL changed.
    build = fulgurite("build", "build --pipeline /etc/fulgurite/pipeline.toml", trigger_rule="none_failed")
    ingest >> build
