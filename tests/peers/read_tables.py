"""Reads tables of a lake as other engines do, and compares every value and type: read_tables.py EXPECTED.json.

EXPECTED.json: {"views": SQL for DuckDB, "tables": {name: {"columns": {name: SQL type}, "files": [path], "rows": [object]}}}
"""

import json
import sys

import duckdb
import polars
import pyarrow.parquet

# How each reader calls the types of schemas/*.sql.
DUCKDB = {"text": "VARCHAR", "bigint": "BIGINT", "integer": "INTEGER", "double": "DOUBLE", "real": "FLOAT", "boolean": "BOOLEAN"}
POLARS = {"text": "String", "bigint": "Int64", "integer": "Int32", "double": "Float64", "real": "Float32", "boolean": "Boolean"}
ARROW = {"text": "string", "bigint": "int64", "integer": "int32", "double": "double", "real": "float", "boolean": "bool"}


def named(sql_type, names, of_list):
    element = sql_type.removesuffix("[]")
    return of_list.format(names[element]) if sql_type != element else names[element]


def check(reader, table, types, rows, expected):
    wanted_types, wanted_rows = expected
    if types != wanted_types:
        differing = {name: (types.get(name), wanted) for name, wanted in wanted_types.items() if types.get(name) != wanted}
        sys.exit(f"{reader} reads `{table}` with other types (read, expected): {differing or list(types)}")
    if len(rows) != len(wanted_rows):
        sys.exit(f"{reader} reads {len(rows)} rows of `{table}`, expected {len(wanted_rows)}")
    for number, (row, wanted) in enumerate(zip(rows, wanted_rows)):
        if row != wanted:
            differing = {name: (row[name], wanted[name]) for name in wanted if row[name] != wanted[name]}
            sys.exit(f"{reader} reads row {number} of `{table}` otherwise (read, expected): {differing}")


with open(sys.argv[1], encoding="utf-8") as file:
    expected = json.load(file)
database = duckdb.connect()
database.execute(expected["views"])
for table, content in expected["tables"].items():
    columns, files, rows = content["columns"], content["files"], content["rows"]

    relation = database.sql(f'select * exclude (batch) from "{table}"')
    types = {name: str(kind) for name, kind in zip(relation.columns, relation.types)}
    found = [dict(zip(relation.columns, row)) for row in relation.fetchall()]
    check("duckdb", table, types, found, ({c: named(t, DUCKDB, "{}[]") for c, t in columns.items()}, rows))

    frame = polars.read_parquet(files, hive_partitioning=False)
    types = {name: str(kind) for name, kind in frame.schema.items()}
    check("polars", table, types, frame.to_dicts(), ({c: named(t, POLARS, "List({})") for c, t in columns.items()}, rows))

    arrow = pyarrow.concat_tables([pyarrow.parquet.ParquetFile(path).read() for path in files])
    types = {field.name: str(field.type) for field in arrow.schema}
    wanted = {c: named(t, ARROW, "list<element: {} not null>") for c, t in columns.items()}
    check("pyarrow", table, types, arrow.to_pylist(), (wanted, rows))
print(f"{len(expected['tables'])} tables read alike by duckdb {duckdb.__version__}, polars {polars.__version__}, pyarrow {pyarrow.__version__}")
