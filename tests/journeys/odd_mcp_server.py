"""An MCP server that keeps to no protocol: each tool is odd in its own way, in the list or when it is called."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Call = dict[str, Any]
OK = {"content": [{"type": "text", "text": "fine"}]}
ANY = {"type": "object"}


def say(message: object) -> None:
    sys.stdout.buffer.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def answer(call: Call, result: object) -> None:
    say({"jsonrpc": "2.0", "id": call["id"], "result": result})


def raw(call: Call, result: bytes) -> None:
    say(b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (call["id"], result))


def fail(call: Call, error: object) -> None:
    say({"jsonrpc": "2.0", "id": call["id"], "error": error})


def texts(*blocks: object, **fields: Any) -> dict[str, Any]:
    return {"content": list(blocks), **fields}


def garbage(call: Call) -> None:
    say(b"Loading model...\n\xff\xfe\n{broken\n\n")
    answer(call, OK)


def progress(call: Call) -> None:
    token = call["params"].get("_meta", {}).get("progressToken")
    for done, total in ((1, 0), (-5, 10), (float("nan"), 1), ("half", "all"), (7, None)):
        say({"jsonrpc": "2.0", "method": "notifications/progress",
             "params": {"progressToken": token, "progress": done, "total": total, "message": "x" * 5000}})  # fmt: skip
    answer(call, OK)


def huge_progress(call: Call) -> None:
    token = call["params"].get("_meta", {}).get("progressToken")
    params = {"progressToken": token, "progress": 10**400, "total": 1}
    say({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    answer(call, OK)


def ask_client(call: Call) -> None:
    for number, method in enumerate(("sampling/createMessage", "elicitation/create", "roots/list", "no/such")):
        say({"jsonrpc": "2.0", "id": f"s-{number}", "method": method, "params": {}})
    answer(call, OK)


def twice(call: Call) -> None:
    for text in ("first", "second"):
        answer(call, texts({"type": "text", "text": text}))
    say({"jsonrpc": "2.0", "id": 99_999, "result": OK})


NEST: Any = "deep"
for _ in range(60):
    NEST = {"n": NEST}

CALLS: dict[str, Callable[[Call], Any]] = {
    "megabytes": lambda call: answer(call, texts({"type": "text", "text": "x" * 6_000_000})),
    "error of megabytes": lambda call: answer(call, texts({"type": "text", "text": "x" * 6_000_000}, isError=True)),
    "protocol error of megabytes": lambda call: fail(call, {"code": -32000, "message": "y" * 3_000_000}),
    "error without words": lambda call: answer(call, texts(isError=True)),
    "error that is odd": lambda call: fail(call, {"code": "E7", "message": None}),
    "error that is text": lambda call: fail(call, "no"),
    "not UTF-8": lambda call: raw(call, b'{"content":[{"type":"text","text":"caf\xe9"}]}'),
    "half a surrogate pair": lambda call: raw(call, b'{"content":[{"type":"text","text":"\\ud83d"}]}'),
    "NaN": lambda call: raw(call, b'{"content":[],"structuredContent":{"a":NaN}}'),
    "a huge number": lambda call: raw(call, b'{"content":[],"structuredContent":{"a":1' + b"0" * 400 + b"}}"),
    "nested deeply": lambda call: answer(call, texts(structuredContent=NEST)),
    "an unknown block": lambda call: answer(call, texts({"type": "hologram", "data": 1}, *OK["content"])),
    "a block without a type": lambda call: answer(call, texts({"text": "fine"}, None, 7)),
    "content that is text": lambda call: answer(call, {"content": "fine"}),
    "content null": lambda call: answer(call, {"content": None}),
    "structured text": lambda call: answer(call, texts(structuredContent="fine")),
    "against its output schema": lambda call: answer(call, texts(structuredContent={"a": "text"})),
    "isError as text": lambda call: answer(call, {**OK, "isError": "no"}),
    "result null": lambda call: answer(call, None),
    "result that is a list": lambda call: answer(call, ["fine"]),
    "an empty result": lambda call: answer(call, {}),
    "garbage before": garbage,
    "odd progress": progress,
    "huge progress": huge_progress,
    "asks the client": ask_client,
    "answers twice": twice,
    "never answers": lambda call: None,
    "exits": lambda call: os._exit(3),
    "closes its output": lambda call: os.close(1),
}  # fmt: skip

SCHEMAS: dict[str, Any] = {
    "schema of no object": {"type": "string"},
    "schema null": None,
    "schema that is text": "object",
    "schema with an unknown type": {"type": "object", "properties": {"a": {"type": "strnig"}}},
    "schema with a broken pattern": {"type": "object", "properties": {"a": {"pattern": "("}}},
    "schema with a slow pattern": {"type": "object", "properties": {"a": {"pattern": "^(a|aa)+$"}}},
    "schema that refers to nothing": {"type": "object", "properties": {"a": {"$ref": "#/$defs/No"}}},
    "schema that refers to the web": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/a"}}},
    "schema within itself": {"type": "object", "allOf": [{"$ref": "#"}]},
    "schema with true": {"type": "object", "properties": {"a": True}},
    "schema with required null": {"type": "object", "required": None},
}

LISTED: list[Any] = [
    {"name": "good", "description": "Be good.", "inputSchema": ANY},
    *({"name": name, "inputSchema": ANY, "outputSchema": {"type": "objekt"}} for name in CALLS),
    *({"name": name, "inputSchema": schema} for name, schema in SCHEMAS.items()),
    {"name": "a long description", "description": "d" * 200_000, "inputSchema": ANY},
    {"name": "description null", "description": None, "annotations": "none", "inputSchema": ANY},
    {"name": "x" * 300, "inputSchema": ANY},
    {"name": "twin", "inputSchema": ANY},
    {"name": "twin", "inputSchema": ANY},
    {"name": "", "inputSchema": ANY},
    {"name": 7},
    {"inputSchema": ANY},
    None,
    "tool",
]
NAMES = [tool["name"] for tool in LISTED if isinstance(tool, dict) and isinstance(tool.get("name"), str)]


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        match message.get("method"):
            case "initialize":
                version = message["params"]["protocolVersion"]
                answer(message, {"protocolVersion": version, "capabilities": {"tools": {}},
                                 "serverInfo": {"name": "odd", "version": "0"}})  # fmt: skip
            case "tools/list":
                answer(message, {"tools": LISTED, "nextCursor": "again"})  # every page is the first
            case "tools/call":
                CALLS.get(message["params"]["name"], lambda call: answer(call, OK))(message)
            case _ if "id" in message and "method" in message:
                fail(message, {"code": -32601, "message": "no such method"})


if __name__ == "__main__":
    main()
