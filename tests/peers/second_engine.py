"""Runs the SQL files of a stage on DuckDB and compares the tables with those that the stage wrote. The job comes as JSON on stdin."""

import json
import math
import sys

import duckdb


def quoted(name):
    return '"' + name + '"'


def parquet(files):
    return f"read_parquet([{', '.join(repr(file) for file in files)}], hive_partitioning = false)"


def run_statements(connection, statements, known, params):
    """Makes a table of every relation, once all that its files read is there."""
    waiting = {}
    for statement in statements:
        waiting.setdefault(statement["writes"], []).append(statement)
    while waiting:
        ready = [name for name, files in waiting.items() if all(read in known for file in files for read in file["reads"])]
        if not ready:
            sys.exit(f"nothing can run: {sorted(waiting)} wait for each other")
        for name in ready:
            for position, file in enumerate(waiting.pop(name)):
                target = f"create table {quoted(name)} as" if position == 0 else f"insert into {quoted(name)} by name"
                connection.execute(f"{target}\n{file['sql']}", {param: params[param] for param in file["params"]} or None)
            known.add(name)


def same(ours, theirs):
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == theirs or (math.isnan(ours) and math.isnan(theirs)) or abs(ours - theirs) <= 1e-12 * max(1.0, abs(ours))
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(same(a, b) for a, b in zip(ours, theirs))
    return ours == theirs


def compare(connection, name, expected):
    ours = connection.execute(f"select * from {parquet(expected['files'])} limit 0").description
    columns = [column[0] for column in ours]
    order = ", ".join(quoted(column) for column in expected["sorted_by"])
    chosen = ", ".join(quoted(column) for column in columns)
    ours = connection.execute(f"select {chosen} from {parquet(expected['files'])} order by {order}").fetchall()
    theirs = connection.execute(f"select {chosen} from {quoted(name)} order by {order}").fetchall()
    if len(ours) != len(theirs):
        sys.exit(f"{name}: {len(ours)} rows here, {len(theirs)} in DuckDB")
    for row, (left, right) in enumerate(zip(ours, theirs)):
        for column, a, b in zip(columns, left, right):
            if not same(a, b):
                sys.exit(f"{name}, row {row} {left[:3]}, column {column}: {a!r} here, {b!r} in DuckDB")
    print(f"{name}: {len(ours)} rows agree")


def main():
    job = json.load(sys.stdin)
    connection = duckdb.connect()
    for name, files in job["tables"].items():
        connection.execute(f"create view {quoted(name)} as select * from {parquet(files)}")
    for statement in job["prepare"]:
        connection.execute(statement)
    known = {row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()}
    run_statements(connection, job["statements"], known, job["params"])
    for name, expected in job["expected"].items():
        compare(connection, name, expected)


main()
