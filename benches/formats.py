"""Recordings of every format that Fulgurite reads, made large: the contract suite's runs again and again, each time with ids of their own.

The recordings are those of tests/it/contract, one agent's run in each format; OTLP protobuf is encoded here from the JSON of one of them.
"""

import base64
import json
import re
import struct
from pathlib import Path

CONTRACT = Path(__file__).resolve().parent.parent / "tests/it/contract"
# Sessions of these are files of their own, since their lines say so little that their file has to name them.
FILES_OF_SESSIONS = {"claude_code", "codex"}
# Words that ids are never told from, and that mean something.
WORDS = {"user", "assistant", "system", "tool", "developer", "environment", "default"}
STEP = 0x9E3779B97F4A7C15


def formats():
    """Name and recording of each, in the order of their names."""
    return {path.stem: path for path in sorted(CONTRACT.glob("*.jsonl"))}


def write(name, megabytes, folder):
    """Writes about that much of a format into a folder: how many copies of the recording, and how many bytes there are."""
    proto = name == "otlp_proto"
    text = formats()["openinference" if proto else name].read_text()
    pieces = split(text)
    copies = max(1, round(megabytes * 1e6 / len(text)))
    single = name in FILES_OF_SESSIONS
    file, size = None, 0
    for copy in range(copies):
        if file is None or single:
            file = open(folder / (f"{copy:06}.jsonl" if single else "traces.bin" if proto else "traces.jsonl"), "wb")
        lines = copy_of(pieces, copy)
        size += file.write(framed(lines) if proto else lines.encode())
        if single:
            file.close()
    file.close()
    return copies, size


def split(text):
    """The text in pieces, of which every second one is an id."""
    ids = set()
    for line in text.splitlines():
        ids |= ids_of(json.loads(line))
    found = "|".join(re.escape(one) for one in sorted(ids, key=len, reverse=True))
    # In quotes, in a path of ids (`20261122T…Zroot.20261122T…Zchild`) or in a name (`post.root.inputs`).
    return re.split(rf'(?<=["Z.])({found})(?=["\\.])', text)


def ids_of(value, key=""):
    """Every text under a key that ends in `id`."""
    if isinstance(value, dict):
        return set().union(*(ids_of(value, key) for key, value in value.items())) if value else set()
    if isinstance(value, list):
        return set().union(*(ids_of(value, key) for value in value)) if value else set()
    is_id = isinstance(value, str) and len(value) > 1 and re.search(r"(^|[a-z_])(id|Id|Uuid|uuid)$", key) and value not in WORDS
    return {value} if is_id else set()


def copy_of(pieces, copy):
    return "".join(renamed(piece, copy) if index % 2 else piece for index, piece in enumerate(pieces))


def renamed(one, copy):
    """An id of the same shape."""
    if re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", one):
        return f"{(int(one, 16) + copy * STEP) % (1 << 4 * len(one)):0{len(one)}x}"
    if re.fullmatch(r"tr-[0-9a-f]{32}", one):
        return "tr-" + renamed(one[3:], copy)
    if re.fullmatch(r"[A-Za-z0-9+/]+=", one) and len(one) in (12, 24):
        raw = base64.b64decode(one)
        return base64.b64encode(((int.from_bytes(raw) + copy * STEP) % (1 << 8 * len(raw))).to_bytes(len(raw))).decode()
    return f"{one}x{copy}"


def framed(lines):
    """OTLP JSON as protobuf messages, each after its length."""
    messages = [request(json.loads(line)) for line in lines.splitlines()]
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, content):
    """A message, a text or bytes."""
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def any_value(value):
    ((kind, content),) = value.items()
    match kind:
        case "stringValue":
            return field(1, content)
        case "boolValue":
            return varint(2 << 3) + varint(int(content))
        case "intValue":
            return varint(3 << 3) + varint(int(content) % (1 << 64))
        case "doubleValue":
            return varint(4 << 3 | 1) + struct.pack("<d", float(content))
        case "arrayValue":
            return field(5, b"".join(field(1, any_value(one)) for one in content.get("values", [])))
        case "kvlistValue":
            return field(6, attributes(1, content.get("values", [])))
    raise ValueError(f"no such value: {kind}")


def attributes(number, entries):
    return b"".join(field(number, field(1, entry["key"]) + field(2, any_value(entry["value"]))) for entry in entries)


def request(record):
    resources = b""
    for resource in record["resourceSpans"]:
        scopes = b""
        for scope in resource["scopeSpans"]:
            spans = b"".join(field(2, span(one)) for one in scope["spans"])
            scopes += field(2, field(1, field(1, scope["scope"]["name"])) + spans)
        resources += field(1, field(1, attributes(1, resource["resource"]["attributes"])) + scopes)
    return resources


def span(one):
    def time(number, nanoseconds):
        return varint(number << 3 | 1) + struct.pack("<Q", int(nanoseconds))

    out = field(1, bytes.fromhex(one["traceId"])) + field(2, bytes.fromhex(one["spanId"]))
    out += field(4, bytes.fromhex(one.get("parentSpanId", ""))) + field(5, one["name"])
    out += time(7, one["startTimeUnixNano"]) + time(8, one["endTimeUnixNano"]) + attributes(9, one.get("attributes", []))
    for event in one.get("events", []):
        out += field(11, time(1, event["timeUnixNano"]) + field(2, event["name"]) + attributes(3, event.get("attributes", [])))
    status = one.get("status", {})
    return out + field(15, field(2, status.get("message", "")) + varint(3 << 3) + varint(int(status.get("code", 0))))
