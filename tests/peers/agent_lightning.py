"""Agent Lightning's own code beside `credit.compat`: scripted runs of several seeds, and recorded ones where they are there, made by the package that is
installed and by a binary.

    python tests/peers/agent_lightning.py 0.3 target/debug/fulgurite [SAMPLES]     agentlightning 0.3.0, verl, PyTorch
    python tests/peers/agent_lightning.py 1.0 target/debug/fulgurite [SAMPLES]     agentlightning 1.0.2, verl, PyTorch

Exits with 1 where a row differs: its ids, mask, reward, or its advantage by more than 1e-7 (verl has 1 + 1e-6 in f32, which a group of one is divided by).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts/fixtures"))
import agent_lightning as peer  # noqa: E402

SEEDS = range(11, 16)
ROWS = "select rollout_id, prompt_token_ids, response_token_ids, return_value, advantage from transitions where drop_reason is null order by rollout_id, step"
SEQUENCES = """select e.rollout_id, e.sequence, e.observation_tokens, t.prompt_token_ids, t.response_token_ids, t.return_value, t.advantage
from edges as e join transitions as t on t.rollout_id = e.rollout_id and t.call_id = e.call_id order by e.rollout_id, e.step"""


def ours(binary, version, traces, records, *settings):
    """The rows that the binary makes of traces, in the shape of the peer's."""
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in (("traces.jsonl", traces), ("rollouts.jsonl", records)):
            Path(folder, name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        where = ["--lake", f"{folder}/lake", "--batch", "b", "--quiet"]
        settings = [f"credit.compat=agl-{version}", *settings]
        flags = [flag for setting in settings for flag in ("--set", setting)]
        subprocess.run([binary, "ingest", f"{folder}/traces.jsonl", f"{folder}/rollouts.jsonl", "--build", *where, *flags], check=True)
        query = ROWS if version == "0.3" else SEQUENCES
        said = subprocess.run([binary, "sql", query, "--format", "jsonl", *where], check=True, capture_output=True, text=True).stdout
    rows, places = [], {}
    for call in map(json.loads, said.splitlines()):
        prompt, response = call["prompt_token_ids"], call["response_token_ids"]
        row = dict(rollout_id=call["rollout_id"], prompt=prompt, response=[], reward=call["return_value"], advantage=call["advantage"])
        if version == "1.0":
            row["mask"] = []
            row = places.setdefault((call["rollout_id"], call["sequence"]), row)
            seen = call.get("observation_tokens") or 0
            row["response"] += prompt[len(prompt) - seen :]
            row["mask"] += [0] * seen + [1] * len(response)
        row["response"] += response
        if not any(row is known for known in rows):
            rows.append(row)
    return rows


def compare(name, theirs, found):
    theirs = sorted(theirs, key=lambda row: row["rollout_id"])
    assert len(theirs) == len(found), f"{name}: {len(theirs)} rows and {len(found)}"
    for expected, row in zip(theirs, found):
        assert expected.keys() == row.keys(), f"{name}: {expected.keys()} and {row.keys()}"
        for key, value in expected.items():
            equal = abs(value - row[key]) <= 1e-7 if isinstance(value, float) else value == row[key]
            assert equal, f"{name}, {row['rollout_id']}, {key}: {value} and {row[key]}"
    print(f"{name}: {len(found)} rows agree")


def recorded(version, samples):
    """Runs that were recorded, with what the trainer would have known of their tasks: those of equal input are one."""
    folder = samples / ("agentlightning_v03" if version == "0.3" else "agentlightning_v1")
    traces, records = ("spans_agentops.jsonl", "rollouts_agentops.jsonl") if version == "0.3" else ("events.jsonl", "rollouts.jsonl")
    if not (folder / traces).exists():
        print(f"skipped: no `{folder / traces}`")
        return None
    traces, records = ([json.loads(line) for line in (folder / name).read_text().splitlines()] for name in (traces, records))
    made = [(json.dumps(record["input"]), record, [line for line in traces if line["rollout_id"] == record["rollout_id"]]) for record in records]
    return made


def main():
    version, binary = sys.argv[1], sys.argv[2]
    make, record, trace = (peer.rows_03, peer.record_03, peer.spans) if version == "0.3" else (peer.rows_10, peer.record_10, peer.events)
    for seed in SEEDS:
        runs = peer.runs(seed)
        traces, records = [line for run in runs for line in trace(run)], [record(run) for run in runs]
        compare(f"Agent Lightning {version}, seed {seed}", make(runs), ours(binary, version, traces, records))
        if version == "0.3":
            found = ours(binary, version, traces, records, 'credit.agents=["writer"]')
            compare(f"Agent Lightning {version}, seed {seed}, one agent", make(runs, agent="writer"), found)
    made = recorded(version, Path(sys.argv[3])) if len(sys.argv) > 3 else None
    if made:
        found = ours(binary, version, [line for _, _, lines in made for line in lines], [record for _, record, _ in made])
        compare(f"Agent Lightning {version}, recorded runs", make(None, made=made), found)


if __name__ == "__main__":
    main()
