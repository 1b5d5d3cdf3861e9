#!/usr/bin/env python3
"""Tasks and a warm start of GSM8K's questions of one and two steps. Standard library only; the same bytes every time.

    python scripts/gsm8k.py DIR data/gsm8k

DIR has `train.jsonl` and `test.jsonl` as https://github.com/openai/grade-school-math has them (MIT, © 2021 OpenAI; Cobbe et al. 2021,
arXiv:2110.14168). `tasks.jsonl` is made of them, `train` of its train and `val` of its test questions, and `warm_start.jsonl.gz`: conversations about
other train questions, in which a calculator is called with what the annotations (`<<48/2=24>>`) compute. The second step of a question takes the first one's
result, which is put in where it stands: `(48/2)+48`. Questions whose steps are not chained like that, whose expression has numbers that the
question does not write as digits, or is not worth the answer, are left out.
"""

import ast
import importlib.util
import json
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The prompt, the tool and how files are written are those of the problems that were made up.
spec = importlib.util.spec_from_file_location("calc", ROOT / "sample_data/calc/generate.py")
calc = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calc)

STEP = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
WARM, TRAIN, VAL = 400, 400, 60


def expression(answer):
    """One expression for all steps; None where there are more than two, or where they cannot be chained."""
    steps = [(what.replace(" ", ""), result.strip()) for what, result in STEP.findall(answer)]
    if not 1 <= len(steps) <= 2 or not all(re.fullmatch(r"[0-9.+*/()-]+", what) for what, _ in steps):
        return None
    whole, result = steps[0]
    if len(steps) == 2:
        taken = re.compile(rf"(?<![0-9.]){re.escape(result)}(?![0-9.])")
        whole, times = taken.subn(f"({whole})", steps[1][0])
        if times != 1:
            return None
    try:
        ast.parse(whole, mode="eval")
        worth = calc.value(whole)
    except (SyntaxError, ZeroDivisionError):
        return None
    expected = answer.rsplit("####", 1)[1].strip().replace(",", "")
    return whole if abs(worth - float(expected)) < 1e-6 and worth == int(worth) else None


def questions(path):
    """Question, expression and number of each that can be used."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        whole = expression(row["answer"])
        question = " ".join(row["question"].split())
        if whole is not None and set(NUMBER.findall(whole)) <= set(NUMBER.findall(question.replace(",", ""))):
            yield question, whole, int(calc.value(whole))


def conversation(index, question, whole, number):
    answer = str(number)
    return {
        "messages": [
            {"role": "system", "content": calc.SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{index}"} | calc.call(whole)]},
            {"role": "tool", "tool_call_id": f"call_{index}", "content": answer},
            {"role": "assistant", "content": answer},
        ],
        "tools": calc.TOOLS,
        "reward": 1.0,
        "task_id": f"gsm8k-warm-{index:03}",
        "split": "train",
    }


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    for name in ["train.jsonl", "test.jsonl"]:
        if not (source / name).is_file():
            sys.exit(f"error: there is no `{source / name}`; it is in https://github.com/openai/grade-school-math")
    draw = random.Random("gsm8k")
    of_train, of_test = list(questions(source / "train.jsonl")), list(questions(source / "test.jsonl"))
    draw.shuffle(of_train)
    draw.shuffle(of_test)
    target.mkdir(parents=True, exist_ok=True)
    rows = [("train", row) for row in of_train[WARM : WARM + TRAIN]] + [("val", row) for row in of_test[:VAL]]
    tasks = [
        {"id": f"gsm8k-{split}-{index:03}", "input": question, "expected": number, "split": split}
        for index, (split, (question, _, number)) in enumerate(rows)
    ]
    calc.write(target / "tasks.jsonl", tasks)
    calc.write(target / "warm_start.jsonl.gz", [conversation(index, *row) for index, row in enumerate(of_train[:WARM])])
    print(f"{len(of_train)} and {len(of_test)} questions of one and two steps; {len(tasks)} tasks and {WARM} conversations are in `{target}`", file=sys.stderr)


if __name__ == "__main__":
    main()
