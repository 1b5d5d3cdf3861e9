#!/usr/bin/env python3
"""Makes a world that a policy of a million parameters can talk about: rows of shelves, and how many books and cards are on each. Of it a database
and passages, questions to both, and what agents of mixed quality said to some. Standard library only; the same bytes every time.

The tiny policy can copy two numbers out of a question, so a shelf is named by two: its row's and its own. A shelf that val or test asks for is
asked for in no other split, whatever the wording. All of it is invented.
"""

import gzip
import json
import random
import sqlite3
from pathlib import Path

HERE = Path(__file__).parent
ROWS, SHELVES = range(10, 40), range(40, 100)
COUNT = 700
THINGS = ["books", "cards"]
# Shelves by split; the rest is for train.
PLACES = {"val": 80, "test": 120}
TASKS = {"val": 80, "test": 120, "train": 300}
# Passages are about books alone: what follows the two numbers of the shelf is the answer.
PASSAGE = "Shelf {a} / {b} holds {books} books."

# Wordings, and how often they are understood at first.
WORDINGS = [
    ("Row {a} has shelf {b} with {t}. How many {t} does it hold?", 0.65),
    ("There is row {a} and shelf {b} of it. How many {t} are there?", 0.3),
    ("Of row {a}, shelf {b} holds {t}. How many {t} is that?", 0.25),
]
RIGHT = "select {t} from shelf where place = '{a} / {b}'"
# Of the database: the numbers swapped (no row), the other thing (another answer), a table that is not there (an error).
MISTAKES = [
    "select {t} from shelf where place = '{b} / {a}'",
    "select {u} from shelf where place = '{a} / {b}'",
    "select {t} from row where place = '{a} / {b}'",
]
# How often another query mends the first.
MENDED = 0.3


def world(source):
    """Numbers of three digits, so that one is never a shelf's or a row's."""
    places = source.sample([(a, b) for a in ROWS for b in SHELVES], COUNT)
    return [{"a": a, "b": b} | {thing: source.randint(100, 999) for thing in THINGS} for a, b in places]


def write_database(path, shelves):
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("create table shelf (place text primary key, books integer not null, cards integer not null)")
    rows = [[f"{shelf['a']} / {shelf['b']}"] + [shelf[thing] for thing in THINGS] for shelf in shelves]
    database.executemany("insert into shelf values (?, ?, ?)", rows)
    database.commit()
    database.execute("vacuum")
    return database


def answer(database, query):
    try:
        return database.execute(query).fetchall()
    except sqlite3.Error:
        return []


def says(text):
    return {"role": "assistant", "content": text}


def searches(query):
    function = {"name": "search", "arguments": json.dumps({"query": query})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "", "type": "function", "function": function}]}


def of_database(source, database, fill, share):
    """A question's query, and what the writer, the checker and the rewriter of `pipelines/agents/sql_langgraph.py` say to it."""
    right, mistake = RIGHT.format(**fill), source.choice(MISTAKES).format(**fill)
    assert len(answer(database, right)) == 1
    query = right if source.random() < share else mistake
    said = [query, "right"]
    if not answer(database, query):
        said = [query, "wrong", right if source.random() < MENDED else mistake]
    last = said[0] if len(said) == 2 else said[2]
    return right, [says(text) for text in said], float(answer(database, last) == answer(database, right))


def of_passages(source, shelves, fill, share):
    """The expected answer, and one that is right, without its tags, for another shelf of the row, or guessed without a search."""
    k, how = str(fill["books"]), source.random()
    found = searches(f"{fill['a']} / {fill['b']}")
    if how < share:
        return k, [found, says(f"<answer>{k}</answer>")], 1.0
    if how < share + 0.1:
        return k, [found, says(k)], 0.9
    if source.random() < 0.5:
        return k, [says(f"<answer>{source.randint(100, 999)}</answer>")], 0.1
    # Of the passages that fit alike the first is found, which may be any shelf of the row.
    first = next(shelf for shelf in shelves if shelf["a"] == fill["a"])
    return k, [searches(str(fill["a"])), says(f"<answer>{first['books']}</answer>")], 0.1


def questions(source, shelves, things):
    """Every shelf asked for in every way, by split, each part shuffled."""
    rest = source.sample(shelves, len(shelves))
    places = {}
    for split, count in PLACES.items():
        places[split], rest = rest[:count], rest[count:]
    for split, of_split in (places | {"train": rest}).items():
        asked = []
        for shelf in of_split:
            for wording, share in WORDINGS:
                for t in things:
                    fill = shelf | {"t": t, "u": next(other for other in THINGS if other != t)}
                    asked.append((wording.format(**fill), fill, share))
        source.shuffle(asked)
        yield split, asked


def write(path, rows):
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        # No time of writing in the header: the same bytes every time.
        text = gzip.compress(text, 9, mtime=0)
    path.write_bytes(text)


def main():
    source = random.Random("shelves")
    shelves = world(source)
    database = write_database(HERE / "shelves.sqlite", shelves)
    write(HERE / "passages.jsonl", [{"text": PASSAGE.format(**shelf)} for shelf in shelves])
    for kind in ("sql", "rag"):
        tasks, talks = [], []
        for split, asked in questions(source, shelves, THINGS if kind == "sql" else THINGS[:1]):
            for number, (question, fill, share) in enumerate(asked):
                about = (source, database, fill, share) if kind == "sql" else (source, shelves, fill, share)
                expected, said, reward = of_database(*about) if kind == "sql" else of_passages(*about)
                if number < TASKS[split]:
                    tasks.append({"id": f"{kind}-{split}-{number:03}", "input": question, "expected": expected, "split": split})
                elif split == "train":
                    messages = [{"role": "user", "content": question}] + said
                    talks.append({"messages": messages, "reward": reward, "task_id": f"warm-{number:04}", "split": split})
        write(HERE / f"{kind}.jsonl", tasks)
        write(HERE / f"{kind}_warm_start.jsonl.gz", talks)


if __name__ == "__main__":
    main()
