"""What the clients share: the server's address from the environment, and the tool that the policy calls."""

import os
from typing import Literal

from pydantic import BaseModel, Field

BASE_URL = os.environ["OPENAI_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
QUESTION = "What is 17 + 25?"
ANSWER = "The answer is 42."
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


class Verdict(BaseModel):
    """What an answer is held to."""

    verdict: Literal["yes", "no"]
    sums: list[int] = Field(max_length=3)


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b
