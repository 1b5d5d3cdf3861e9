"""Air and credit on narrow calls: Fulgurite's stages beside DuckDB, which runs the text of the same SQL files on the same Parquet.

As a program it is DuckDB's side: `python benches/sql.py LAKE THREADS TARGET`. `tables` makes the lake that both read: what derive would
have written of rollouts of 20 calls, each with a tool call of which every fifth fails, in groups of 8.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BATCH = "bench"
CALLS_OF_A_ROLLOUT, ROLLOUTS_OF_A_GROUP = 20, 8
METHOD, COMPARISON = "identical", "group_mean"
# The defaults of `air.weights`, as `fulgurite config` prints them.
WEIGHTS = {"empty_result": 0.0, "guardrail_tripped": -0.1, "malformed_arguments": -0.1, "recovery": 0.1, "refusal_or_empty": -0.1,
           "repeated_call": -0.1, "slow_tool": 0.0, "tool_error": -0.1, "tool_success": 0.0, "truncated_response": -0.1, "unknown_tool": -0.1}
PARAMETERS = {"cap": "0.4", "potential": "false", "slow_tool_ms": "30000.0", "gamma": "1.0", "add_stated": "true", "add_air": "true",
              "keep_equal": "false", "missing_zero": "false", "all_agents": "true",
              "compare_calls": "false", "mask_truncated": "'none'", "method": f"'{METHOD}'", "comparison": f"'{COMPARISON}'",
              "level": "'rollout'", "reason": "'shared'", "singleton_keep": "false", "overlong_tokens": "4096.0",
              "overlong_buffer": "1024.0", "overlong_penalty": "0.0"}

CALL = f"i // {CALLS_OF_A_ROLLOUT}"
ROLLOUT_ID, STEP = f"printf('r%08d', {CALL})", f"i % {CALLS_OF_A_ROLLOUT}"
CALL_ID, TOOL_ID = f"printf('c%02d', {STEP})", f"printf('t%02d', {STEP})"
FAILS = "hash(i) % 5 = 0"
# What is not null of each table, by column; one row for each call, of rollouts one for each.
COLUMNS = {
    "spans": {"rollout_id": ROLLOUT_ID, "seq": f"2 * ({STEP})", "span_id": CALL_ID, "kind": "'llm'"},
    "calls": {"rollout_id": ROLLOUT_ID, "call_id": CALL_ID, "step": STEP, "seq": f"2 * ({STEP})", "agent": "'solver'",
              "status": "'ok'", "abandoned": "false", "response": "'{}'", "response_empty": "false", "output_tokens": "100 + hash(i) % 900"},
    "tool_calls": {"rollout_id": ROLLOUT_ID, "span_id": TOOL_ID, "seq": f"2 * ({STEP}) + 1", "call_id": CALL_ID, "step": STEP,
                   "agent": "'solver'", "name": "printf('tool%d', hash(i) % 4)", "arguments_valid": "true", "offered": "true",
                   "arguments_hash": "printf('%016x', hash(i))", "result_empty": "false", "latency_ms": "hash(i) % 1000",
                   "status": f"case when {FAILS} then 'error' else 'ok' end"},
    "rollouts": {"rollout_id": "printf('r%08d', i)", "group_id": f"printf('g%07d', i // {ROLLOUTS_OF_A_GROUP})", "split": "'train'",
                 "status": "'succeeded'", "reward": "hash(i) % 2", "calls": str(CALLS_OF_A_ROLLOUT)},
    "rewards": {},
}
USUAL = {"text": "'x'", "bigint": "0", "integer": "0", "double": "0.0", "boolean": "false"}


def schema(table):
    """(name, type, whether null is allowed) of each column, and the columns that rows are sorted by."""
    text = (ROOT / "schemas" / f"{table}.sql").read_text()
    columns = re.findall(r"^    (\w+) ([a-z]+(?:\[\])?)( not null)?", text, re.M)
    names = [name for name, _, _ in columns]
    stated = re.search(r"Sorted by ([\w, ]+)", text)[1].split(", ")
    return [(name, kind, not required) for name, kind, required in columns], [name for name in stated if name in names]


def tables(lake, calls):
    """A lake whose ingest and derive have committed."""
    import duckdb, pyarrow, pyarrow.parquet
    plain = {"text": pyarrow.string(), "bigint": pyarrow.int64(), "integer": pyarrow.int32(), "double": pyarrow.float64(),
             "real": pyarrow.float32(), "boolean": pyarrow.bool_()}

    def arrow_type(kind):
        return pyarrow.list_(pyarrow.field("element", plain[kind[:-2]], False)) if kind.endswith("[]") else plain[kind]

    db = duckdb.connect()
    db.execute("set enable_progress_bar = false")
    for stage, names in [("ingest", ["spans", "rejects"]), ("derive", ["calls", "tool_calls", "rewards", "rollouts"])]:
        committed = {}
        for table in names:
            columns, order = schema(table)
            stated = COLUMNS.get(table, {})
            value = lambda name, kind, null: stated.get(name) or ("null" if null else USUAL[kind])
            select = ", ".join(f"cast({value(*column)} as {column[1]}) as {column[0]}" for column in columns)
            rows = (calls // CALLS_OF_A_ROLLOUT if table == "rollouts" else calls) if stated else 0
            path = Path(table) / f"batch={BATCH}" / "part-0.parquet"
            (lake / path).parent.mkdir(parents=True)
            # Made in the order that the table has: ids of equal length count up.
            rows_of = db.sql(f"select {select} from range({rows}) as rows(i)").to_arrow_reader(131_072)
            types = pyarrow.schema([pyarrow.field(name, arrow_type(kind), null) for name, kind, null in columns])
            with pyarrow.parquet.ParquetWriter(lake / path, types, compression="zstd") as writer:
                for batch in rows_of:
                    writer.write_table(pyarrow.Table.from_batches([batch]).cast(types))
            size = (lake / path).stat().st_size
            committed[table] = {"rows": rows, "files": [{"path": str(path), "rows": rows, "size_bytes": size, "hash": "0" * 64}]}
        manifest = {"format": "fulgurite.manifest/1", "stage": stage, "batch": BATCH, "version": 1, "run_id": "0" * 16, "code_version": "0",
                    "started_at": "2026-01-01T00:00:00Z", "committed_at": "2026-01-01T00:00:00Z", "fingerprint": "0" * 64, "sealed": False,
                    "inputs": [], "sql": {}, "config": {}, "schemas": {}, "tables": committed, "policy": None, "states": {}, "counts": {}}
        folder = lake / "_manifests" / stage / BATCH
        folder.mkdir(parents=True)
        (folder / "v00000001.json").write_text(json.dumps(manifest))


def statements(folder, names=None):
    """The SQL files of a folder: what each reads and writes, and its text with parameters filled in."""
    files = []
    for path in sorted((ROOT / "pipelines" / folder).glob("*.sql")):
        if names and path.stem not in names:
            continue
        text = path.read_text()
        head, body = text, re.sub(r"\$(\w+)", lambda name: PARAMETERS[name[1]] if name[1] in PARAMETERS else name[0], text)
        stated = dict(re.findall(r"^-- (reads|writes|audits) +(.+)$", head, re.M))
        reads = [name.strip() for name in stated.get("reads", "").split(",") if name.strip()]
        files.append((reads, stated.get("writes"), stated.get("audits"), body))
    return files


def in_order(files, known):
    """What the files write, each after what it reads: (name, statement, how often it is read)."""
    done, order = set(known), []
    writers = {}
    for reads, writes, _, body in files:
        entry = writers.setdefault(writes, (set(), []))
        entry[0].update(reads)
        entry[1].append(f"({body})")
    while len(order) < len(writers):
        ready = [name for name, (reads, _) in writers.items() if name not in done and reads <= done]
        assert ready, (set(writers) - done, done)
        for name in ready:
            uses = sum(len(re.findall(rf"\b(?:from|join) {name}\b", body)) for _, _, _, body in files)
            order.append((name, "\nunion all by name\n".join(writers[name][1]), uses))
            done.add(name)
    return order


def duckdb_side(lake, threads, target):
    """Runs air and credit, audits and all. Returns the rows of each table."""
    import duckdb
    db = duckdb.connect(config={"threads": threads})
    db.execute("set enable_progress_bar = false")
    for table in ["spans", "calls", "tool_calls", "rewards", "rollouts"]:
        db.execute(f"create view {table} as from read_parquet('{lake}/{table}/*/*.parquet', hive_partitioning = false)")
    db.execute("create macro json_get_bool(json, key) as try_cast(json ->> key as boolean)")
    db.execute("create table air_weights (rule text, weight double)")
    db.executemany("insert into air_weights values (?, ?)", list(WEIGHTS.items()))
    for table in ["reward_weights (name text, weight double)", "agent_weights (agent text, weight double)", "trained_agents (agent text)"]:
        db.execute(f"create table {table}")
    known = ["spans", "calls", "tool_calls", "rewards", "rollouts", "air_weights", "reward_weights", "agent_weights", "trained_agents"]
    air = {path.stem for path in (ROOT / "pipelines/air").glob("*.sql")} - {"potential"}
    credit = {"units_of_rollouts", "credits_of_weights", METHOD, COMPARISON, "scored_calls", "scored_rollouts", "step_rewards", "transitions", "edges_none",
              "counts"}
    audits = statements("audits")
    rows = {}
    for folder, names, made in [("air", air, ["air_rewards"]), ("credit", credit, ["credits", "transitions", "edges"])]:
        for name, statement, uses in in_order(statements(folder, names), known):
            if name in made:
                columns, order = schema(name)
                select = ", ".join(column[0] for column in columns)
                path = Path(target) / f"{name}.parquet"
                db.execute(f"copy (select {select} from ({statement}) order by {', '.join(order)}) to '{path}' (format parquet, compression zstd)")
                db.execute(f"create view {name} as from '{path}'")
                rows[name] = db.execute(f"select count(*) from {name}").fetchone()[0]
            elif name == "counts":
                db.execute(statement).fetchall()
            else:
                kind = "temp table" if uses > 1 else "view"
                db.execute(f"create {kind} {name} as {statement}")
            known.append(name)
        for _, _, audited, body in audits:
            if audited in made:
                assert not db.execute(f"select * from ({body}) limit 10").fetchall(), body
        known.remove("counts")
    return rows


if __name__ == "__main__":
    print(json.dumps(duckdb_side(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
