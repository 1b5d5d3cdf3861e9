"""Answers questions about a database: three agents in a LangGraph graph, one that writes a query, one that checks it, and one that writes another.

A line in is a task with the addresses of its run under `rollout`; a line out is the query that it came to. Nothing here knows of training: the
model is reached by its base URL, and OpenInference's spans of LangChain go where each run says.
"""

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import TypedDict

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import ToolException, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

DATABASE = Path(os.environ.get("DATABASE", "../sample_data/sql/geo.sqlite"))


def tables():
    """The tables and their columns, as a model is told of them."""
    database = sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True)
    names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table' order by name desc")]
    columns = {name: [column for (column,) in database.execute("select name from pragma_table_info(?)", [name])] for name in names}
    database.close()
    return ", ".join(f"{name}({', '.join(columns[name])})" for name in names)


TABLES = tables()
WRITE = f"Write an SQLite query that answers the question. Tables: {TABLES}"
CHECK = "Is the query right? Say right or wrong."
REWRITE = f"The query is wrong. Write another SQLite query. Tables: {TABLES}"
# Of a result, for a model to look at.
SHOWN_ROWS, SHOWN_CHARS = 3, 200


class State(TypedDict, total=False):
    question: str
    query: str
    result: str
    verdict: str
    rewritten: bool


@tool
def run_sql(query: str) -> str:
    """Runs a query."""
    database = sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True)
    # A query that never ends would: every so many steps it is asked whether it may go on, and after these it may not.
    steps = iter([0] * 1000)
    database.set_progress_handler(lambda: next(steps, 1), 10_000)
    try:
        rows = database.execute(query).fetchmany(SHOWN_ROWS)
    except sqlite3.Error as error:
        raise ToolException(f"error: {error}") from None
    finally:
        database.close()
    return (", ".join(str(row[0]) for row in rows) or "no rows")[:SHOWN_CHARS]


def graph(model):
    def ask(system, *lines):
        return model.invoke([SystemMessage(system), HumanMessage("\n".join(lines))]).text.strip()

    def write(state):
        return {"query": ask(WRITE, state["question"])}

    def execute(state):
        try:
            return {"result": run_sql.invoke({"query": state["query"]})}
        except ToolException as error:
            return {"result": str(error)}

    def check(state):
        return {"verdict": ask(CHECK, state["question"], state["query"], state["result"])}

    def rewrite(state):
        return {"query": ask(REWRITE, state["question"], state["query"], state["result"]), "rewritten": True}

    built = StateGraph(State)
    for node in (write, execute, check, rewrite):
        built.add_node(node.__name__, node)
    built.add_edge(START, "write")
    built.add_edge("write", "execute")
    built.add_conditional_edges("execute", lambda state: END if state.get("rewritten") else "check", ["check", END])
    built.add_conditional_edges("check", lambda state: "rewrite" if "wrong" in state["verdict"] else END, ["rewrite", END])
    built.add_edge("rewrite", "execute")
    return built.compile()


def answer(task):
    run = task["rollout"]
    model = ChatOpenAI(model=run["model"], base_url=run["base_url"], api_key=run["api_key"], temperature=1.0, max_tokens=64)
    return graph(model).invoke({"question": task["input"]})["query"]


def main():
    provider = TracerProvider()
    LangChainInstrumentor().instrument(tracer_provider=provider)
    for line in sys.stdin:
        task = json.loads(line)
        run = task["rollout"]
        # Each run has an address of its own for spans; a processor that was shut down takes no more.
        headers = {"authorization": f"Bearer {run['api_key']}"}
        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=run["otlp_endpoint"] + "/v1/traces", headers=headers))
        provider.add_span_processor(processor)
        try:
            said = {"answer": answer(task)}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        processor.shutdown()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    # The server is on this machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    main()
