#!/usr/bin/env python3
"""Makes `small.jsonl`, questions for a tiny policy about the countries of `geo.sqlite` whose names are one word, and `warm_start.jsonl.gz`, what
agents of mixed quality said to some of them. Standard library only; the same bytes every time.

Which country is asked for what in val and test is asked nowhere else, whatever the wording. A conversation is what the three agents of
`pipelines/agents/sql_langgraph.py` say one after the other: a query, whether it is right, and where it is not, another query.
"""

import gzip
import json
import random
import sqlite3
from pathlib import Path

HERE = Path(__file__).parent
COUNTS = {"val": 40, "test": 60, "train": 200}

# Wordings, the query that answers them, what is mistaken for it, and how often the query is right at first. A mistake gives another answer, no
# row, or an error.
TEMPLATES = [
    (["What is the capital of {name}?", "Name the capital of {name}.", "Which city is the capital of {name}?", "{name} has what capital?"],
     "select capital from country where name = '{name}'", "select code from country where name = '{name}'", 0.45),
    (["How many people live in {name}?", "What is the population of {name}?", "Name the population of {name}.", "{name} has how many people?"],
     "select population from country where name = '{name}'", "select people from country where name = '{name}'", 0.45),
    (["Which currency does {name} use?", "What is the currency of {name}?", "Name the currency of {name}.", "{name} pays with what currency?"],
     "select currency from country where name = '{name}'", "select code from country where name = '{name}'", 0.25),
    (["How large is {name}?", "What is the area of {name}?", "Name the area of {name}.", "{name} covers what area?"],
     "select area_km2 from country where name = '{name}'", "select area from country where name = '{name}'", 0.25),
    (["Which country has the capital {capital}?", "{capital} is the capital of what country?", "Name the country of {capital}.",
      "Of what country is {capital} the capital?"],
     "select name from country where capital = '{capital}'", "select name from country where name = '{capital}'", 0.25),
    (["On which continent is {name}?", "What is the continent of {name}?", "Name the continent of {name}.", "{name} is on what continent?"],
     "select continent.name from country join continent on continent.code = continent_code where country.name = '{name}'",
     "select continent from country where name = '{name}'", 0.25),
]
# How often another query mends the first.
MENDED = 0.3


def countries(database):
    rows = database.execute("select name, capital from country order by population desc").fetchall()
    plain = lambda word: word.isascii() and word.isalpha()
    return sorted((name, capital) for name, capital in rows if plain(name) and plain(capital) and name != capital)


def answer(database, query):
    try:
        return database.execute(query).fetchall()
    except sqlite3.Error:
        return []


def conversation(source, database, right, mistake, share):
    """What the writer, the checker and the rewriter say."""
    query = right if source.random() < share else mistake
    said = [query]
    if answer(database, query):
        return said + ["right"]
    return said + ["wrong", right if source.random() < MENDED else mistake]


def main():
    source = random.Random("small sql")
    database = sqlite3.connect(HERE / "geo.sqlite")
    pairs = [(template, country) for template in TEMPLATES for country in countries(database)]
    source.shuffle(pairs)
    tasks, talks = [], []
    for split, count in COUNTS.items():
        rest = split == "train"
        taken, pairs = (pairs, []) if rest else (pairs[:count], pairs[count:])
        for (wordings, query, mistake, share), (name, capital) in taken:
            fill = {"name": name, "capital": capital}
            right, wrong = query.format(**fill), mistake.format(**fill)
            assert answer(database, right)
            if answer(database, right) == answer(database, wrong):
                continue
            task = {"input": source.choice(wordings).format(**fill), "expected": right, "split": split}
            tasks.append(task)
            if rest:
                said = conversation(source, database, right, wrong, share)
                worth = float(answer(database, said[-1] if len(said) == 3 else said[0]) == answer(database, right))
                messages = [{"role": "user", "content": task["input"]}] + [{"role": "assistant", "content": text} for text in said]
                talks.append({"messages": messages, "reward": worth, "task_id": f"warm-{len(talks):03}", "split": "train"})
    kept = []
    for split, count in COUNTS.items():
        of_split = [task for task in tasks if task["split"] == split]
        for number, task in enumerate(source.sample(of_split, count)):
            kept.append({"id": f"small-{split}-{number:03}"} | task)
    source.shuffle(talks)
    lines = lambda rows: "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    (HERE / "small.jsonl").write_text(lines(kept))
    # No time of writing in the header: the same bytes every time.
    (HERE / "warm_start.jsonl.gz").write_bytes(gzip.compress(lines(talks).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
