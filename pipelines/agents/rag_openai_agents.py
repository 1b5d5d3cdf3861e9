"""Answers questions from passages: an ordinary agent of the OpenAI Agents SDK with a search tool, kept up to answer one task a line.

A line in is a task with the addresses of its run under `rollout`; a line out is its answer. Nothing here knows of training: the model is reached
by its base URL, and OpenInference's spans of the SDK go where each run says.
"""

import asyncio
import json
import math
import os
import re
import sys
from collections import Counter
from pathlib import Path

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI
from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

PASSAGES = Path(os.environ.get("PASSAGES", "../sample_data/rag/passages.jsonl"))
INSTRUCTIONS = "Search, then answer in <answer></answer>."


def words(text):
    return re.findall(r"\w+", text.lower())


class Bm25:
    """Okapi BM25 with the usual constants, over passages that fit in memory.

    Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, eq. 3.15; the inverse document frequency is kept above 0
    by adding 1 inside its logarithm, as Lucene does.
    """

    K1, B = 1.2, 0.75

    def __init__(self, passages):
        self.passages = passages
        self.counts = [Counter(words(passage)) for passage in passages]
        self.mean_length = sum(count.total() for count in self.counts) / len(passages)
        found_in = Counter(word for count in self.counts for word in count)
        self.idf = {word: math.log(1 + (len(passages) - n + 0.5) / (n + 0.5)) for word, n in found_in.items()}

    def best(self, query):
        """The best passage; None where no word of the query is in any."""

        def score(count):
            norm = self.K1 * (1 - self.B + self.B * count.total() / self.mean_length)
            return sum(self.idf[word] * count[word] * (self.K1 + 1) / (count[word] + norm) for word in words(query) if word in count)

        scored = [(score(count), -number) for number, count in enumerate(self.counts)]
        value, number = max(scored)
        return self.passages[-number] if value > 0 else None


INDEX = Bm25([json.loads(line)["text"] for line in PASSAGES.read_text().splitlines()])


@function_tool
def search(query: str) -> str:
    """Finds a passage."""
    return INDEX.best(query) or "nothing found"


async def answer(task):
    run = task["rollout"]
    client = AsyncOpenAI(base_url=run["base_url"], api_key=run["api_key"])
    model = OpenAIChatCompletionsModel(model=run["model"], openai_client=client)
    settings = ModelSettings(temperature=1.0, max_tokens=64)
    agent = Agent(name="reader", instructions=INSTRUCTIONS, model=model, model_settings=settings, tools=[search])
    result = await Runner.run(agent, task["input"], max_turns=4)
    await client.close()
    return str(result.final_output)


def main():
    provider = TracerProvider()
    OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)
    for line in sys.stdin:
        task = json.loads(line)
        run = task["rollout"]
        # Each run has an address of its own for spans; a processor that was shut down takes no more.
        headers = {"authorization": f"Bearer {run['api_key']}"}
        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=run["otlp_endpoint"] + "/v1/traces", headers=headers))
        provider.add_span_processor(processor)
        try:
            said = {"answer": asyncio.run(answer(task))}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        processor.shutdown()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    # The server is on this machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    main()
