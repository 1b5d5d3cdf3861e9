"""Runs the SQL files of stages on DuckDB, unchanged, and compares what they give with the tables that fulgurite committed.

    duckdb_stages.py LAKE PIPELINES < stages.json

stages.json: [{"files": ["air/scaled", ...], "relations": {"air_weights": [{"rule": ..., "weight": ...}]}, "params": {"cap": 0.4},
"compare": {"air_rewards": ["rollout_id", ...]}}]. Stages run one after the other; each reads the tables that the one before made.
"""

import glob
import json
import os
import re
import sys

import duckdb


def statement(path, params):
    """The file's header as a dictionary, and its statement with literals in the place of parameters."""
    text = open(path).read()
    header = {}
    for line in text.splitlines():
        if found := re.match(r"-- (reads|writes)\s+(.*)", line):
            header[found[1]] = [name.strip() for name in found[2].split(",")]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))

    def literal(match):
        value = params[match[1]]
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        return f"cast('{value!r}' as double)"

    return header, re.sub(r"\$(\w+)", literal, body)


def in_order(files):
    """Each file after those that write what it reads."""
    left = list(files)
    while left:
        waiting = {written for header, _ in left for written in header["writes"]}
        ready = [file for file in left if not waiting & set(file[0]["reads"])]
        assert ready, f"the files read each other in a circle: {waiting}"
        # Files that write the same relation go together.
        yield from ready
        left = [file for file in left if file not in ready]


def agree(name, row, ours, theirs):
    if isinstance(ours, float) and isinstance(theirs, float):
        same = abs(ours - theirs) <= 1e-12
    else:
        same = ours == theirs
    assert same, f"{name}, row {row}: fulgurite has {ours!r}, DuckDB {theirs!r}"


def main(lake, pipelines):
    connection = duckdb.connect()
    # The one function that is not DuckDB's own.
    connection.execute(
        "create macro json_get_bool(text, key) as try_cast(json_extract_string(text, '$.' || key) as boolean)"
    )
    for folder in glob.glob(f"{lake}/*/batch=*"):
        table = os.path.basename(os.path.dirname(folder))
        if not table.startswith("_"):
            files = sorted(glob.glob(f"{folder}/*.parquet"))
            connection.execute(f'create table "{table}" as select * from read_parquet({files}, hive_partitioning = false)')
    compared = 0
    for stage in json.load(sys.stdin):
        for relation, table in stage["relations"].items():
            columns = ", ".join(f"{name} {kind}" for name, kind in table["columns"].items())
            connection.execute(f"create or replace table {relation}({columns})")
            for row in table["rows"]:
                connection.execute(f"insert into {relation} values ({', '.join('?' * len(row))})", row)
        ours = {
            table: connection.execute(f"select {', '.join(columns)} from {table} order by all").fetchall()
            for table, columns in stage["compare"].items()
        }
        files = [statement(f"{pipelines}/{name}.sql", stage["params"]) for name in stage["files"]]
        made = set()
        for header, text in in_order(files):
            name = header["writes"][0]
            if name in made:
                connection.execute(f"insert into {name} by name {text}")
            else:
                connection.execute(f"create or replace table {name} as {text}")
            made.add(name)
        for table, columns in stage["compare"].items():
            theirs = connection.execute(f"select {', '.join(columns)} from {table} order by all").fetchall()
            assert len(ours[table]) == len(theirs) > 0, f"{table}: {len(ours[table])} rows, DuckDB has {len(theirs)}"
            for row, (our_row, their_row) in enumerate(zip(ours[table], theirs)):
                for our_cell, their_cell in zip(our_row, their_row):
                    agree(table, row, our_cell, their_cell)
            compared += len(theirs)
    print(f"{compared} rows agree")


main(*sys.argv[1:])
