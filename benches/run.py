"""Fulgurite beside its peers: ratios of CPU time, taken in one run, on data made by scaling recorded traces.

    python benches/run.py FULGURITE [--traces DIR] [--megabytes 100 1000] [--calls 10000000] [--only NAME ...]

Each side runs as a process of its own with the same number of threads; what counts is its CPU time (user and system) and its peak
memory, as the kernel accounts for them. Absolute times depend on the machine and its neighbours; the ratios are taken minutes apart at
most. Needs the packages of tests/requirements.txt.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import formats
import sql

HERE = Path(__file__).resolve().parent
IDS = re.compile(rb'("(?:traceId|spanId|parentSpanId)": ?")([0-9a-f]+)(")')


# The kernel counts what a process held before it became the command, so that its parent has to be small.
USAGE = """
import json, os, sys
target, *command = sys.argv[1:]
_, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
with open(target, "w") as file:
    json.dump([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024], file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measure(command, **env):
    """Runs a command: its CPU seconds, peak memory in MiB, and what it printed."""
    command = [str(part) for part in command]
    with tempfile.NamedTemporaryFile("r") as usage:
        ended = subprocess.run([sys.executable, "-c", USAGE, usage.name, *command], stdout=subprocess.PIPE, env={**os.environ, **env})
        if ended.returncode != 0:
            sys.exit(f"{command[0]} ended with {ended.returncode}: {' '.join(command)}")
        return *json.load(usage), ended.stdout.decode()


def scale(traces, megabytes, target):
    """OTLP JSON lines of about that size: the recorded lines again and again, each time with ids of their own."""
    lines = []
    for path in sorted(traces.rglob("*.otlp.jsonl")):
        lines += [line for line in path.read_bytes().splitlines(keepends=True) if b'"resourceSpans"' in line]
    if not lines:
        sys.exit(f"no *.otlp.jsonl with spans below {traces}")
    pieces = [IDS.split(line) for line in lines]
    size, copy = 0, 0
    with open(target, "wb") as file:
        while size < megabytes * 1_000_000:
            for parts in pieces:
                line = bytearray()
                for start in range(0, len(parts) - 1, 4):
                    text, key, old, quote = parts[start : start + 4]
                    new = (int(old, 16) + copy * 0x9E3779B97F4A7C15) % (1 << 4 * len(old))
                    line += text + key + b"%0*x" % (len(old), new) + quote
                line += parts[-1]
                size += file.write(line)
            copy += 1
    return size


DUCKDB_INGEST = """
import sys, duckdb
source, target, threads = sys.argv[1:]
db = duckdb.connect(config={"threads": int(threads)})
db.execute("set enable_progress_bar = false")
span = "STRUCT(traceId VARCHAR, spanId VARCHAR, parentSpanId VARCHAR, name VARCHAR, kind JSON, startTimeUnixNano VARCHAR, endTimeUnixNano VARCHAR, attributes JSON, events JSON, links JSON, status JSON)"
columns = f"{{resourceSpans: 'STRUCT(resource JSON, scopeSpans STRUCT(scope JSON, spans {span}[])[])[]'}}"
db.execute(f'''copy (
    with resources as (select unnest(resourceSpans) as r from read_json('{source}', format = 'newline_delimited', maximum_object_size = 268435456, columns = {columns})),
    scopes as (select r.resource as resource, unnest(r.scopeSpans) as s from resources)
    select resource, s.scope as scope, unnest(s.spans, recursive := true) from scopes
) to '{target}' (format parquet, compression zstd)''')
print(db.execute(f"select count(*) from '{target}'").fetchone()[0])
"""


def ingest(fulgurite, work, arguments):
    """OTLP JSON lines to Parquet, beside DuckDB's read_json with an explicit schema (which leaves attributes as JSON)."""
    rows = []
    traces, threads = arguments.traces, arguments.threads
    for size in arguments.megabytes:
        source = work / f"{size}.otlp.jsonl"
        written = scale(traces, size, source) / 1e6
        lake = work / "lake"
        shutil.rmtree(lake, ignore_errors=True)
        command = [fulgurite, "ingest", source, "--lake", lake, "--batch", "bench", "--threads", threads, "--json", "--quiet"]
        ours, memory, printed = measure(command)
        spans = json.loads(printed)["rows"]["spans"]
        theirs, their_memory, printed = measure([sys.executable, "-c", DUCKDB_INGEST, source, work / "duckdb.parquet", threads])
        assert int(printed.split()[-1]) <= spans, (printed, spans)
        rows.append((f"ingest {written:.0f} MB, DuckDB", written / ours, written / theirs, "MB/core-s", memory, their_memory))
        rows.append((f"ingest {written:.0f} MB, CPU per span", 1e6 * ours / spans, None, "µs", memory, None))
        derived, memory, _ = measure([fulgurite, "derive", "--lake", lake, "--batch", "bench", "--threads", threads, "--json", "--quiet"])
        rows.append((f"derive of {spans} spans", spans / derived, None, "spans/core-s", memory, None))
        source.unlink()
    return rows


DUCKDB_READ = """
import sys, duckdb
source, target, threads = sys.argv[1:]
db = duckdb.connect(config={"threads": int(threads)})
db.execute("set enable_progress_bar = false")
db.execute(f"copy (select * from read_json('{source}/*.jsonl', format = 'newline_delimited', maximum_object_size = 268435456)) to '{target}' (format parquet, compression zstd)")
"""


def readers(fulgurite, work, arguments):
    """Every format to Parquet; what is JSON beside DuckDB's read_json, which finds a schema and reads nothing into what it holds."""
    rows = []
    for name in [*formats.formats(), "otlp_proto"]:
        folder, lake = work / name, work / "lake"

        def ingest(megabytes):
            for place in [folder, lake]:
                shutil.rmtree(place, ignore_errors=True)
            folder.mkdir()
            copies, size = formats.write(name, megabytes, folder)
            cpu, memory, printed = measure([fulgurite, "ingest", folder, "--lake", lake, "--batch", "bench", "--threads", arguments.threads,
                                            "--json", "--quiet"])
            made = json.loads(printed)["rows"]
            assert made["rejects"] == 0, (name, made)
            return copies, size / 1e6, cpu, memory, made["spans"]

        *_, spans_of_one = ingest(0)
        copies, megabytes, ours, memory, spans = ingest(arguments.reader_megabytes)
        assert spans == copies * spans_of_one, f"{name}: {copies} copies of {spans_of_one} spans gave {spans}"
        theirs, their_memory = None, None
        if name != "otlp_proto":
            cpu, their_memory, _ = measure([sys.executable, "-c", DUCKDB_READ, folder, work / "duckdb.parquet", arguments.threads])
            theirs = megabytes / cpu
        rows.append((f"read {name}, {1e6 * ours / spans:.0f} µs a span", megabytes / ours, theirs, "MB/core-s", memory, their_memory))
        shutil.rmtree(folder)
        print(f"{rows[-1][0]}: {rows[-1][1]:.1f} MB/core-s", file=sys.stderr, flush=True)
    return rows


AGENT_LIGHTNING = """
import json, os, sys, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.types import Span
started = time.process_time()
runs = {}
for line in open(sys.argv[1]):
    span = Span.model_validate_json(line)
    runs.setdefault((span.rollout_id, span.attempt_id), []).append(span)
parsed = time.process_time()
triplets = sum(len(TracerTraceToTriplet(agent_match=None).adapt(sorted(run, key=lambda span: span.sequence_id))) for run in runs.values())
print(json.dumps({"triplets": triplets, "parse": parsed - started, "adapt": time.process_time() - parsed}))
"""


def agent_lightning_spans(target, rollouts, calls):
    """Spans as Agent Lightning 0.3 records them: a session, LLM calls with token ids and growing prompts, their tools, a reward."""
    with open(target, "w") as file:
        for rollout in range(rollouts):
            sequence, clock = 0, 1_795_363_157.0 + 1000 * rollout
            run = {"rollout_id": f"ro-{rollout:012x}", "attempt_id": "at-00000000"}
            root = f"{rollout:08x}{0:08x}"

            def emit(number, parent, name, start, end, attributes):
                nonlocal sequence
                sequence += 1
                span = {
                    **run, "sequence_id": sequence, "trace_id": f"{rollout:032x}", "span_id": f"{rollout:08x}{number:08x}",
                    "parent_id": parent, "name": name, "status": {"status_code": "OK", "description": None},
                    "attributes": attributes, "events": [], "links": [], "start_time": start, "end_time": end,
                    "context": None, "parent": None, "resource": {"attributes": {"service.name": "bench"}, "schema_url": ""},
                }
                file.write(json.dumps(span) + "\n")

            prompt = [(7 * rollout + token) % 32_000 for token in range(200)]
            messages = [("system", "You are a calculator agent."), ("user", f"What is {rollout} divided by 4?")]
            for call in range(calls):
                response = [(31 * call + 3 * token + rollout) % 32_000 for token in range(96)]
                attributes = {
                    "gen_ai.request.type": "chat", "gen_ai.request.model": "m", "gen_ai.response.model": "m",
                    "gen_ai.response.id": f"chatcmpl-{rollout}-{call}", "gen_ai.completion.0.role": "assistant",
                    "gen_ai.completion.0.content": f"step {call}", "gen_ai.completion.0.finish_reason": "tool_calls",
                    "gen_ai.usage.prompt_tokens": len(prompt), "gen_ai.usage.completion_tokens": 96,
                    "prompt_token_ids": list(prompt), "response_token_ids": response,
                }
                for index, (role, content) in enumerate(messages):
                    attributes[f"gen_ai.prompt.{index}.role"] = role
                    attributes[f"gen_ai.prompt.{index}.content"] = content
                tool = {"agentops.span.kind": "tool", "tool.name": "calculator", "tool.call.id": f"call_{rollout}_{call}",
                        "tool.parameters": json.dumps({"expression": f"{call} / 4"})}
                parent = f"{rollout:08x}{2 * call + 1:08x}"
                emit(2 * call + 2, parent, "tool_call.calculator", clock + 0.5, clock + 0.6, tool)
                emit(2 * call + 1, root, "openai.chat.completion", clock, clock + 0.9, attributes)
                clock += 1
                prompt += response + [(11 * call + token) % 32_000 for token in range(64)]
                messages += [("assistant", f"step {call}"), ("tool", f"{call / 4}")]
            emit(2 * calls + 1, root, "agentlightning.annotation", clock, clock,
                 {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": float(rollout % 2)})
            emit(0, None, f"ro-{rollout}.session", clock - calls - 1, clock + 1, {"agentops.span.kind": "session"})
    return os.path.getsize(target)


def agent_lightning(fulgurite, work, arguments):
    """Agent Lightning 0.3 spans to transitions, beside agentlightning==0.3.0: its parsing and its adapter."""
    rows = []
    for rollouts, calls in [(500, 4), (5000, 4), (200, 16), (40, 64)]:
        source = work / "agl.jsonl"
        size = agent_lightning_spans(source, rollouts, calls) / 1e6
        lake = work / "lake"
        shutil.rmtree(lake, ignore_errors=True)
        place = ["--lake", lake, "--batch", "bench", "--threads", arguments.threads, "--json", "--quiet"]
        # Each rollout is alone in its group, so that there is something to learn from.
        ours, memory, _ = measure([fulgurite, "ingest", "--build", source, *place, "--set", "credit.singleton=keep"])
        _, their_memory, printed = measure([arguments.agent_lightning, "-c", AGENT_LIGHTNING, source])
        theirs = json.loads(printed.splitlines()[-1])
        name = f"{rollouts} x {calls} calls ({size:.0f} MB)"
        rate = theirs["triplets"] / ours
        rows.append((f"{name}, parse + adapt", rate, theirs["triplets"] / (theirs["parse"] + theirs["adapt"]), "triplets/core-s",
                     memory, their_memory))
        rows.append((f"{name}, adapt alone", rate, theirs["triplets"] / theirs["adapt"], "triplets/core-s", None, None))
        source.unlink()
    return rows


def flat_spans(target, calls):
    """One rollout whose calls all hang below its root, each followed by a reward: spans of Agent Lightning 0.3."""
    with open(target, "w") as file:
        def emit(sequence, name, parent, start, end, attributes):
            file.write(json.dumps({
                "rollout_id": "ro-flat", "attempt_id": "at-0", "sequence_id": sequence, "trace_id": f"{1:032x}",
                "span_id": f"{sequence:016x}", "parent_id": parent, "name": name, "status": {"status_code": "OK", "description": None},
                "attributes": attributes, "events": [], "links": [], "start_time": start, "end_time": end, "context": None, "parent": None,
                "resource": {"attributes": {}, "schema_url": ""},
            }) + "\n")

        start, root = 1_795_363_157.0, f"{2 * calls + 1:016x}"
        for call in range(calls):
            attributes = {"gen_ai.request.type": "chat", "gen_ai.request.model": "m", "gen_ai.response.id": f"chatcmpl-{call}",
                          "gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": f"step {call}",
                          "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "done",
                          "prompt_token_ids": [call % 32_000, 1, 2], "response_token_ids": [3, 4]}
            emit(2 * call + 1, "openai.chat.completion", root, start + call, start + call + 0.5, attributes)
            reward = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": float(call % 2)}
            emit(2 * call + 2, "agentlightning.annotation", root, start + call + 0.6, start + call + 0.6, reward)
        emit(2 * calls + 1, "run", None, start - 1, start + calls + 1, {"agentops.span.kind": "session"})


def flat(fulgurite, work, arguments):
    """One flat rollout of many calls to transitions, beside agentlightning==0.3.0."""
    source, lake = work / "flat.jsonl", work / "lake"
    flat_spans(source, 3_200)
    shutil.rmtree(lake, ignore_errors=True)
    ours, memory, printed = measure([fulgurite, "ingest", "--build", source, "--lake", lake, "--batch", "bench", "--threads", arguments.threads,
                                     "--json", "--quiet", "--set", "credit.singleton=keep"])
    assert json.loads(printed)["rows"]["transitions"] == 3_200, printed
    _, their_memory, printed = measure([arguments.agent_lightning, "-c", AGENT_LIGHTNING, source])
    theirs = json.loads(printed.splitlines()[-1])
    whole = theirs["parse"] + theirs["adapt"]
    return [("flat rollout of 3200 calls", 3_200 / ours, theirs["triplets"] / whole, "calls/core-s", memory, their_memory)]


def air_and_credit(fulgurite, work, arguments):
    """Air and credit on narrow calls, beside DuckDB running the same SQL text on the same Parquet."""
    rows = []
    for calls in arguments.calls:
        lake, target = work / f"narrow-{calls}", work / f"narrow-duckdb-{calls}"
        sql.tables(lake, calls)
        target.mkdir()
        place = ["--lake", lake, "--batch", sql.BATCH, "--threads", arguments.threads, "--json", "--quiet"]
        ours, memory, made = 0, 0, {}
        for stage in ["air", "credit"]:
            more, used, printed = measure([fulgurite, stage, *place, "--set", f"credit.method={sql.METHOD}",
                                           "--set", f"credit.comparison={sql.COMPARISON}"])
            ours, memory = ours + more, max(memory, used)
            made |= json.loads(printed)["rows"]
        theirs, their_memory, printed = measure([sys.executable, HERE / "sql.py", lake, arguments.threads, target])
        assert json.loads(printed) == made, (printed, made)
        rows.append((f"air and credit, {calls} narrow calls, DuckDB", calls / ours, calls / theirs, "calls/core-s", memory, their_memory))
        shutil.rmtree(lake)
        shutil.rmtree(target)
    return rows


BENCHES = {"ingest": ingest, "readers": readers, "agent_lightning": agent_lightning, "flat": flat, "air_and_credit": air_and_credit}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fulgurite", type=Path, help="the release binary")
    parser.add_argument("--traces", type=Path, default=HERE.parent / "sample_data", help="recorded traces to scale")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--reader-megabytes", type=float, default=30, help="of each format, for readers")
    parser.add_argument("--calls", type=int, nargs="+", default=[10_000_000], help="narrow calls for air_and_credit")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--agent-lightning", type=Path, help="a Python that has agentlightning==0.3.0")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fulgurite-bench-") as folder:
        rows = []
        for name in ["agent_lightning", "flat"]:
            if not arguments.agent_lightning and name in arguments.only:
                print(f"skipped: {name} (--agent-lightning names no Python that has agentlightning==0.3.0)")
                arguments.only.remove(name)
        for name in arguments.only:
            rows += BENCHES[name](arguments.fulgurite.resolve(), Path(folder), arguments)
    print(f"{'what':44} {'fulgurite':>12} {'peer':>12} {'ratio':>7}  {'unit':15} {'MiB':>6} {'peer MiB':>8}")
    for what, ours, theirs, unit, memory, their_memory in rows:
        peer = f"{theirs:12.1f} {ours / theirs:6.2f}x" if theirs else f"{'':20}"
        peer_memory = f"{their_memory:8.0f}" if their_memory else ""
        memory = f"{memory:6.0f}" if memory else ""
        print(f"{what:44} {ours:12.1f} {peer}  {unit:15} {memory:6} {peer_memory}")


if __name__ == "__main__":
    main()
