#!/usr/bin/env python3
"""Makes the passages that the rag agent searches, the questions about them, and `warm_start.jsonl.gz`, what agents of mixed quality said to some.
Standard library only; the same bytes every time.

The passages are templates with the facts of `../sql/geo.sqlite` put in. A question is answered by one passage. What is asked about which country
in val and test is asked nowhere else, whatever the wording.
"""

import gzip
import json
import random
import sqlite3
from pathlib import Path

HERE = Path(__file__).parent
COUNTRIES = 40
COUNTS = {"val": 40, "test": 60, "train": 200}

PASSAGE = "{name} is a country in {continent}. Its capital is {capital}. It pays with {currency}."
# Wordings, the answer, and how often it is found.
TEMPLATES = [
    (["What is the capital of {name}?", "Name the capital of {name}.", "Which city is the capital of {name}?"], "capital", 0.55),
    (["Which currency does {name} use?", "What is the currency of {name}?", "Name the currency of {name}."], "currency", 0.3),
    (["On which continent is {name}?", "What is the continent of {name}?", "Name the continent of {name}."], "continent", 0.3),
]


def countries():
    database = sqlite3.connect(HERE.parent / "sql/geo.sqlite")
    columns = ("name", "capital", "currency", "continent")
    query = ("select country.name, capital, currency, continent.name from country join continent on continent.code = continent_code "
             "order by population desc")
    rows = [dict(zip(columns, row)) for row in database.execute(query)]
    plain = [row["name"] for row in rows if row["name"].isascii() and row["name"].isalpha() and row["capital"].isascii() and row["capital"].isalpha()]
    return rows, sorted(plain[:COUNTRIES])


def searches(query):
    function = {"name": "search", "arguments": json.dumps({"query": query})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "", "type": "function", "function": function}]}


def answers(text):
    return {"role": "assistant", "content": f"<answer>{text}</answer>"}


def conversation(source, fact, kind, share, others):
    """Right, without the format, for another country, or of the wrong fact."""
    how = source.random()
    if how < share:
        return [searches(fact["name"]), answers(fact[kind])]
    if how < share + 0.15:
        return [searches(fact["name"]), {"role": "assistant", "content": fact[kind]}]
    if how < share + 0.3:
        return [answers(source.choice(others)[kind])]
    wrong = source.choice([other for other in ("capital", "currency", "continent") if other != kind])
    return [searches(fact["name"]), answers(fact[wrong])]


def main():
    source = random.Random("rag")
    rows, chosen = countries()
    facts = {row["name"]: row for row in rows}
    passages = [{"id": f"p{number:03}", "title": row["name"], "text": PASSAGE.format(**row)} for number, row in enumerate(rows)]
    pairs = [(template, facts[name]) for template in TEMPLATES for name in chosen]
    source.shuffle(pairs)
    tasks, talks = {split: [] for split in COUNTS}, []
    for number, ((wordings, kind, share), fact) in enumerate(pairs):
        split = "val" if number < 15 else "test" if number < 36 else "train"
        for wording in wordings:
            question = wording.format(**fact)
            tasks[split].append({"input": question, "expected": fact[kind], "split": split})
            if split == "train":
                said = conversation(source, fact, kind, share, rows)
                last = said[-1]["content"]
                messages = [{"role": "user", "content": question}] + said
                talks.append({"messages": messages, "reward": float(last == f"<answer>{fact[kind]}</answer>"), "task_id": f"warm-{len(talks):03}",
                              "split": "train"})
    source.shuffle(talks)
    kept = []
    for split, count in COUNTS.items():
        for number, task in enumerate(source.sample(tasks[split], min(count, len(tasks[split])))):
            kept.append({"id": f"rag-{split}-{number:03}"} | task)
    lines = lambda rows: "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    (HERE / "passages.jsonl").write_text(lines(passages))
    (HERE / "small.jsonl").write_text(lines(kept))
    # No time of writing in the header: the same bytes every time.
    (HERE / "warm_start.jsonl.gz").write_bytes(gzip.compress(lines(talks).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
