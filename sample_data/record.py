"""Records sample_data/ anew: two frameworks' real agents and real tracing, against a model that answers from a script.

    python3 -m venv /tmp/recorder
    /tmp/recorder/bin/pip install langchain==1.4.7 langgraph==1.2.22 langchain-openai==1.7.3 langsmith==0.15.0 zstandard \
        openai-agents==0.24.0 openinference-instrumentation-openai-agents==2.6.0 \
        opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-common==1.45.2
    /tmp/recorder/bin/python sample_data/record.py sample_data

Only the model is scripted, so that each run takes the turns that its script wants. Agents, tools, errors, ids and times are what the
frameworks made of it. The reward is a grader's: 1 where the final answer holds every expected word and no unexpected number, else 0.
"""
import asyncio, base64, json, os, re, sqlite3, sys, threading, time, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OUT = Path(sys.argv[1])
MODEL = "gpt-4o-mini"
CALC, SHIRT = "What is 20 divided by (5 - 1)?", "A shirt costs 80. It is 15% off, and shipping is 5. What is the total?"
OLDER, MEAN = "Names of singers older than 30?", "What is the mean age of all singers?"


def calls(name, **arguments):
    return {"tool": name, "arguments": json.dumps(arguments)}


def says(text):
    return {"text": text}


def calculate(expression):
    return calls("calculator", expression=expression)


def query(text):
    return calls("run_sql", query=text)


TO_SQL = calls("transfer_to_sql_agent")

# (task, question, expected words, what the model says turn by turn)
CALCULATOR_RUNS = [
    ("calc-division", CALC, ["5"], [calculate("20 / (5 - 1)"), says("The answer is 5.")]),
    ("calc-division", CALC, ["5"], [calculate("20 / (5 - 5)"), calculate("20 / (5 - 1)"), says("The answer is 5.")]),
    ("calc-division", CALC, ["5"], [calculate("20 / 5 - 1"), says("The answer is 3.")]),
    ("calc-division", CALC, ["5"], [calculate("20 / (5 - 5)")] * 3 + [says("I could not work it out.")]),
    ("calc-shirt", SHIRT, ["73"], [calculate("80 * 0.85"), calculate("68 + 5"), says("The total is 73.")]),
    ("calc-shirt", SHIRT, ["73"], [calculate("80 - 15%"), calculate("80 * 0.85 + 5"), says("The total is 73.")]),
    ("calc-shirt", SHIRT, ["73"], [calculate("80 * 0.85"), says("The total is 68.")]),
    ("calc-shirt", SHIRT, ["73"], [calls("percentage", of="80", percent="15"), calculate("80 - 15 + 5"), says("The total is 70.")]),
]
SQL_RUNS = [
    (OLDER, ["Joe", "Rose"], [TO_SQL, query("select name from singer where age > 30"), says("Joe and Rose.")]),
    (OLDER, ["Joe", "Rose"], [TO_SQL, query("select nam from singer where age > 30"), query("select name from singer where age > 30"), says("Joe and Rose.")]),
    (OLDER, ["Joe", "Rose"], [TO_SQL, query("select name from singer where age > 300"), says("There are none.")]),
    (OLDER, ["Joe", "Rose"], [TO_SQL, query("select nam from singer"), query("select nam from singer"), says("The table cannot be read.")]),
    (MEAN, ["41"], [TO_SQL, query("select avg(age) from singer"), says("The mean age is 41.")]),
    (MEAN, ["41"], [TO_SQL, query("select mean(age) from singer"), query("select avg(age) from singer"), says("The mean age is 41.")]),
    (MEAN, ["41"], [TO_SQL, query("select max(age) from singer"), says("The mean age is 52.")]),
    (MEAN, ["41"], [says("I think it is about 40.")]),
]


def grade(answer, expected):
    words = re.findall(r"[A-Za-z]+|\d+", answer)
    right = all(word in words for word in expected) and all(word in expected for word in words if word.isdigit())
    return 1.0 if right else 0.0


class Model(BaseHTTPRequestHandler):
    """Chat completions under /<script>/v1: the reply is the script's line number `assistant messages so far`."""
    protocol_version = "HTTP/1.1"
    scripts = [turns for *_, turns in CALCULATOR_RUNS] + [turns for *_, turns in SQL_RUNS]
    answered = 0

    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turns = self.scripts[int(self.path.split("/")[1])]
        messages = request["messages"]
        turn = turns[sum(message["role"] == "assistant" for message in messages)]
        Model.answered += 1
        serial = Model.answered
        message = {"role": "assistant", "content": turn.get("text"), "refusal": None}
        if "tool" in turn:
            function = {"name": turn["tool"], "arguments": turn["arguments"]}
            message["tool_calls"] = [{"id": f"call_{serial:06d}", "type": "function", "function": function}]
        prompt = sum(len(str(message.get("content") or "").split()) for message in messages)
        reply = len(str(turn).split())
        body = json.dumps({
            "id": f"chatcmpl-{serial:06d}", "object": "chat.completion", "created": int(time.time()), "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if "tool" in turn else "stop", "logprobs": None}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply},
        }).encode()
        time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class LangSmith(BaseHTTPRequestHandler):
    """What the LangSmith client sends, put together as the API gives it back: one object a run, one a feedback."""
    protocol_version = "HTTP/1.1"
    runs, feedback = {}, []
    lock = threading.Lock()

    def log_message(self, *_):
        pass

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"version": "0.13.0", "batch_ingest_config": {
            "use_multipart_endpoint": True, "scale_up_qsize_trigger": 1000, "scale_up_nthreads_limit": 1, "scale_down_nempty_trigger": 4,
            "size_limit": 100, "size_limit_bytes": 20971520}})

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_POST(self):
        body, kind = self.body(), self.headers.get("Content-Type", "")
        if self.headers.get("Content-Encoding") == "zstd":
            import zstandard
            body = zstandard.ZstdDecompressor().stream_reader(body).read()
        elif self.headers.get("Content-Encoding") == "gzip":
            body = zlib.decompress(body, 31)
        if "multipart" in kind:
            boundary = re.search(r'boundary="?([^";]+)"?', kind).group(1).encode()
            for part in body.split(b"--" + boundary)[1:-1]:
                head, _, data = part.strip(b"\r\n").partition(b"\r\n\r\n")
                self.take(re.search(rb'name="([^"]+)"', head).group(1).decode(), json.loads(data))
        self.answer({})

    do_PATCH = do_POST

    def take(self, name, value):
        action, run_id, *field = name.split(".")
        with self.lock:
            if action == "feedback":
                self.feedback.append(value)
            elif action in ("post", "patch"):
                run = self.runs.setdefault(run_id, {"id": run_id})
                if field:
                    run[field[0]] = value
                else:
                    run.update({key: item for key, item in value.items() if item is not None or key not in run})


def serve(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def evaluate(expression):
    if not set(expression) <= set("0123456789+-*/(). "):
        raise ValueError(f"illegal character in expression: {expression}")
    return str(eval(expression))


def database():
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript("create table singer(id int, name text, age int);"
                             "insert into singer values (1, 'Joe', 52), (2, 'Timbaland', 30), (3, 'Rose', 41);")
    return connection


def write(name, records):
    with open(OUT / name, "w", encoding="utf-8") as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
            # Tracebacks name the folders that this ran in; nobody needs to know them.
            line = line.replace(sys.prefix, "/venv").replace(str(Path(__file__).resolve().parent), "/agent")
            file.write(line + "\n")


def record_langgraph(model):
    from typing import Annotated, TypedDict
    from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
    from langchain_core.tools import tool
    from langchain_core.tracers.langchain import wait_for_all_tracers
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, StateGraph
    from langgraph.graph.message import add_messages
    from langgraph.prebuilt import ToolNode
    from langsmith import Client

    @tool
    def calculator(expression: str) -> str:
        """Evaluate an arithmetic expression."""
        return evaluate(expression)

    class State(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    def graph(script):
        policy = ChatOpenAI(model=MODEL, base_url=f"{model}/{script}/v1", api_key="none", temperature=0.7).bind_tools([calculator])
        builder = StateGraph(State)
        system = SystemMessage("You are a calculator agent. Use the tool, then answer.")
        builder.add_node("agent", lambda state: {"messages": [policy.invoke([system] + state["messages"])]})
        builder.add_node("tools", ToolNode([calculator], handle_tool_errors=True))
        builder.add_edge(START, "agent")
        builder.add_conditional_edges("agent", lambda state: "tools" if state["messages"][-1].tool_calls else END)
        builder.add_edge("tools", "agent")
        return builder.compile(name="calculator_agent")

    client = Client()
    graded = []
    for script, (task, question, expected, _) in enumerate(CALCULATOR_RUNS):
        config = {"metadata": {"task_id": task}, "tags": ["train"]}
        final = graph(script).invoke({"messages": [HumanMessage(question)]}, config=config)
        graded.append(grade(final["messages"][-1].content, expected))
    wait_for_all_tracers()
    client.flush()
    time.sleep(1)
    runs = sorted(LangSmith.runs.values(), key=lambda run: run["dotted_order"])
    for root, score in zip([run for run in runs if not run.get("parent_run_id")], graded, strict=True):
        client.create_feedback(run_id=root["id"], trace_id=root["trace_id"], key="correctness", score=score)
    client.flush()
    time.sleep(1)
    for run in runs:
        run.setdefault("parent_run_id", None)
        run["status"] = "error" if run.get("error") else "success"
        # The client notes the machine and the clone that it ran on; nobody needs to know.
        extra = run.get("extra") or {}
        extra.pop("runtime", None)
        for key in ("LANGSMITH_ENDPOINT", "revision_id"):
            extra.get("metadata", {}).pop(key, None)
    write("langgraph/runs.jsonl", runs)
    write("langgraph/feedback.jsonl", LangSmith.feedback)


def record_openai_agents(model, first_script):
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
    from agents.tracing import set_trace_processors
    from google.protobuf.json_format import MessageToDict
    from openai import AsyncOpenAI
    from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    requests, roots = [], []

    def hexadecimal(value):
        if isinstance(value, dict):
            ids = ("traceId", "spanId", "parentSpanId")
            return {key: base64.b64decode(item).hex() if key in ids else hexadecimal(item) for key, item in value.items()}
        return [hexadecimal(item) for item in value] if isinstance(value, list) else value

    class Collector(SpanExporter):
        """One request a span, as the OpenTelemetry Collector's file exporter writes them: hex ids, enums as integers."""

        def export(self, spans):
            requests.append(hexadecimal(MessageToDict(encode_spans(spans), use_integers_for_enums=True)))
            roots.extend(span.get_span_context() for span in spans if span.parent is None)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(resource=Resource.create({"service.name": "singers"}))
    provider.add_span_processor(SimpleSpanProcessor(Collector()))
    set_trace_processors([])
    OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)
    connection = database()

    @function_tool
    def run_sql(query: str) -> str:
        """Run a query on the table singer(id, name, age)."""
        return str(connection.execute(query).fetchall())

    async def run(script, question):
        policy = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(api_key="none", base_url=f"{model}/{script}/v1"))
        writer = Agent(name="sql_agent", instructions="Answer with the help of SQL.", model=policy, tools=[run_sql])
        triage = Agent(name="triage_agent", instructions="Hand the question to the right agent.", model=policy, handoffs=[writer])
        return (await Runner.run(triage, question)).final_output

    evaluations = []
    for script, (question, expected, _) in enumerate(SQL_RUNS, first_script):
        answer = asyncio.run(run(script, question))
        root = roots[-1]
        attributes = {"gen_ai.evaluation.name": {"stringValue": "correctness"},
                      "gen_ai.evaluation.score.value": {"doubleValue": grade(answer, expected)}}
        record = {"timeUnixNano": str(time.time_ns()), "eventName": "gen_ai.evaluation.result", "traceId": f"{root.trace_id:032x}",
                  "spanId": f"{root.span_id:016x}", "attributes": [{"key": key, "value": value} for key, value in attributes.items()]}
        evaluations.append({"resourceLogs": [{"resource": {}, "scopeLogs": [{"scope": {"name": "grader"}, "logRecords": [record]}]}]})
    write("openai_agents/spans.otlp.jsonl", requests)
    write("openai_agents/evaluations.otlp.jsonl", evaluations)


if __name__ == "__main__":
    for folder in ("langgraph", "openai_agents"):
        (OUT / folder).mkdir(parents=True, exist_ok=True)
    os.environ.update(LANGSMITH_ENDPOINT=serve(LangSmith), LANGSMITH_API_KEY="none", LANGSMITH_PROJECT="calculator", LANGSMITH_TRACING="true")
    model = serve(Model)
    record_langgraph(model)
    os.environ["LANGSMITH_TRACING"] = "false"
    record_openai_agents(model, first_script=len(CALCULATOR_RUNS))
