#!/usr/bin/env python3
"""Makes the word problems of `tasks.jsonl` and the traces of `warm_start.jsonl.gz`. Standard library only; the same bytes every time.

A problem is a template with names, things and numbers put in. No problem of the val and test splits is among those of train or of the traces:
their numbers are new, and those of test also have names and things that no other split has.

The traces stand for those of an agent in production, whose quality is mixed: 40 % of them are right, 30 % guess an answer instead of using
the calculator, 30 % call it wrongly (another operation, numbers swapped, an expression that it cannot read). Sums and products are mostly
done right, differences, quotients and problems of two steps mostly not, so that what the policy finds likeliest is wrong for them too.
"""

import gzip
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SYSTEM = "Use the calculator, then answer with the number."
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Computes an expression.",
            "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
        },
    }
]

# So many of them that few are a token of their own: a policy learns to read what is between a name and a number, not the name.
NAMES = """
Ana Ben Cara Dan Eva Finn Gina Hugo Iris Jan Abel Berta Carl Dora Emil Fay Gus Hanna Ivan June Karl Lena Max Nora Otto Paula Quinn Rosa Sam Tess
Ulla Vera Will Xenia Yves Zoe Adam Bella Cyrus Delia Ernst Flora Greta Henry Ingrid Joel Katja Luis Maria Noah Olga Peter Ruth Simon Tom Ursula
Viktor Wanda Aldo Bruno Celia David Elsa Felix Gloria Harald Ida Jonas Kira Lukas Marta Nico Oskar Pia Ralf Sonja Theo Ute Vito Wilma Yara Zeno
Agnes Bert Clara Doris Edgar Frida Georg Heidi Igor Julia Kurt Lydia Mario Nadia Oliver Petra Rita Stefan Tina Udo Viola Walter Yuri Zita Anton
Birgit Conrad Diana Erik Fiona Gerd Helena Ilse Jakob Kevin Laura Mark Nina Olaf Pablo Rolf Silvia Tobias Uma Vincent Wendy Alma Boris Carmen
Dirk Emma Fritz Gisela Hans Irma Josef Karin Leon Monika Norbert Ophelia Paul Regina Sven Thea Urs Valentin Amir Bianca Cedric Daria Elias
Frank Gwen Hector Isabel Jim Kai Liv Milo Nell Omar Priya Raj Sita Tariq Umar Vikram Wei Xu Yoko Akira Bao Chen Deepa Esra Fatima Gita Hiro
Imani Jin Kofi Ling Mehmet Naoki Okoro Ping Rania Sunil Tanaka Usha Wen Yan Zara
""".split()
THINGS = """
apples books coins eggs pens stamps cards shells buttons plums pears rings stones cups plates nails screws bulbs candles ropes tickets letters
marbles bottles flowers seeds cakes buns lemons melons peaches cherries hats socks gloves brushes pencils maps jars tiles kites balls drums bells
photos spoons forks knives chairs lamps baskets ribbons feathers leaves bricks planks tubes wires hooks cans crates sacks barrels carrots onions
tomatoes potatoes peppers radishes turnips beans berries grapes limes dates olives almonds cookies muffins pies rolls loaves cheeses fish crabs
ducks geese hens goats sheep pigs cows horses dogs cats birds bees ants frogs toads snails mice rats foxes wolves bears robots trains trucks
boats planes bikes wagons dolls puppets puzzles games discs tapes films posters badges medals flags masks coats shirts scarves belts boots
towels pillows blankets sheets bowls pots pans trays mugs glasses clocks watches mirrors frames vases pins clips
""".split()
TEST_NAMES = ["Kim", "Leo", "Mia", "Nils"]
TEST_THINGS = ["figs", "keys", "nuts", "beads"]

# Each template with the expression that solves it, in a and b (and c). The operation decides how well the traces do it.
TEMPLATES = {
    "sum": [
        ("{n} has {a} {t} and buys {b} more. How many {t} does {n} have?", "{a} + {b}"),
        ("There are {a} {t} in a box and {b} {t} on a table. How many {t} are there?", "{a} + {b}"),
        ("{n} finds {a} {t} on Monday and {b} {t} on Friday. How many {t} is that in all?", "{a} + {b}"),
    ],
    "product": [
        ("{n} has {a} bags with {b} {t} each. How many {t} does {n} have?", "{a} * {b}"),
        ("A shelf holds {a} rows of {b} {t}. How many {t} does it hold?", "{a} * {b}"),
        ("{n} gets {a} {t} a day for {b} days. How many {t} is that in all?", "{a} * {b}"),
    ],
    "difference": [
        ("{n} had {a} {t} and gave {b} away. How many {t} are left?", "{a} - {b}"),
        ("Of {a} {t}, {b} are broken. How many {t} are whole?", "{a} - {b}"),
        ("{n} needs {a} {t} and has {b}. How many {t} are missing?", "{a} - {b}"),
    ],
    "quotient": [
        ("{n} shares {a} {t} among {b} friends. How many {t} does each get?", "{a} / {b}"),
        ("{a} {t} are packed in {b} equal boxes. How many {t} are in a box?", "{a} / {b}"),
    ],
    "two": [
        ("{n} has {a} bags with {b} {t} each and eats {c}. How many {t} are left?", "{a} * {b} - {c}"),
        ("{n} buys {a} {t}, then {b}, and gives {c} away. How many {t} does {n} have?", "{a} + {b} - {c}"),
    ],
}
# Share of problems, and of traces that are right and that guess; the rest calls wrongly. Over all: 40 % right, 30 % guessed.
SHARES = {"sum": 0.17, "product": 0.17, "difference": 0.28, "quotient": 0.22, "two": 0.16}
QUALITY = {"sum": (0.9, 0.08), "product": (0.9, 0.08), "difference": (0.14, 0.42), "quotient": (0.14, 0.42), "two": (0.14, 0.42)}


def numbers(kind, template, random):
    """Numbers of two digits at most, so that the answer is a whole number above 0."""
    if kind == "sum":
        return random.randint(2, 99), random.randint(2, 99), 0
    if kind == "product":
        return random.randint(2, 12), random.randint(2, 20), 0
    if kind == "difference":
        a = random.randint(10, 99)
        return a, random.randint(2, a - 1), 0
    if kind == "quotient":
        b = random.randint(2, 9)
        return b * random.randint(2, 99 // b), b, 0
    a, b = (random.randint(2, 9), random.randint(2, 12)) if "*" in template[1] else (random.randint(10, 50), random.randint(10, 49))
    whole = a * b if "*" in template[1] else a + b
    return a, b, random.randint(2, min(whole - 1, 60))


def value(expression):
    return eval(expression, {"__builtins__": {}})  # Written above, from numbers alone.


def whole(expression):
    result = value(expression)
    assert result == int(result), expression
    return int(result)


def problem(random, names, things, is_test_number):
    while True:
        kind = random.choices(list(SHARES), SHARES.values())[0]
        template = random.choice(TEMPLATES[kind])
        a, b, c = numbers(kind, template, random)
        # A fifth of all numbers is kept for problems that no other split has.
        if ((a * 7 + b * 13 + c * 3) % 5 == 0) != is_test_number:
            continue
        fill = {"n": random.choice(names), "t": random.choice(things), "a": a, "b": b, "c": c}
        return kind, template[0].format(**fill), template[1].format(**fill)


def tasks():
    source = random.Random("calc tasks")
    seen = set()
    for split, count, names, things in [
        ("train", 300, NAMES, THINGS),
        ("val", 80, NAMES, THINGS),
        ("test", 120, TEST_NAMES, TEST_THINGS),
    ]:
        made = 0
        while made < count:
            kind, question, expression = problem(source, names, things, split != "train")
            if question in seen:
                continue
            seen.add(question)
            yield {
                "id": f"calc-{split}-{made:03}",
                "input": question,
                "expected": whole(expression),
                "split": split,
                "metadata": {"kind": kind},
            }
            made += 1


def call(expression):
    return {"type": "function", "function": {"name": "calculator", "arguments": json.dumps({"expression": expression})}}


def shown(result):
    return str(int(result)) if result == int(result) else f"{result:.2f}"


def wrong_expression(expression, source):
    """Another operation, the numbers swapped, or nothing that a calculator reads."""
    parts = expression.split()
    how = source.random()
    if how < 0.7:
        # What is mistaken most often: a difference for a sum, a quotient for a product, and the other way round.
        parts[1] = {"+": "-", "-": "+", "*": "+", "/": "*"}[parts[1]]
    elif how < 0.85:
        parts[0], parts[2] = parts[2], parts[0]
    else:
        parts[1] = {"+": "plus", "-": "minus", "*": "times", "/": "by"}[parts[1]]
    return " ".join(parts)


def calculate(expression):
    try:
        return shown(value(expression))
    except SyntaxError:
        return "error: cannot read the expression"


def traces(count):
    source = random.Random("calc traces")
    for index in range(count):
        kind, question, expression = problem(source, NAMES, THINGS, False)
        right, guessed = QUALITY[kind]
        how = source.random()
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        answer = str(whole(expression))
        if how < right or how >= right + guessed:
            asked = expression if how < right else wrong_expression(expression, source)
            result = calculate(asked)
            messages.append({"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{index}"} | call(asked)]})
            messages.append({"role": "tool", "tool_call_id": f"call_{index}", "content": result})
            said = result if not result.startswith("error") else str(source.randint(2, 99))
        else:
            said = str(max(1, int(answer) + source.choice([-10, -5, -3, -2, -1, 1, 2, 3, 5, 10])))
        messages.append({"role": "assistant", "content": said})
        yield {
            "messages": messages,
            "tools": TOOLS,
            "reward": 1.0 if said == answer else 0.0,
            "task_id": f"warm-{index:04}",
            "split": "train",
        }


def write(path, rows):
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        # No time of writing in the header: the same bytes every time.
        text = gzip.compress(text, 9, mtime=0)
    path.write_bytes(text)


if __name__ == "__main__":
    write(HERE / "tasks.jsonl", tasks())
    write(HERE / "warm_start.jsonl.gz", traces(4000))
