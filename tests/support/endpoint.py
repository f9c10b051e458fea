"""An endpoint that speaks OpenAI's chat completions: a real HTTP server, which says what it was asked.

`reply` turns a question into what is sent: chunks of a stream, with numbers in between for seconds of silence, or a
Refusal. While it is silent it looks whether the other side closes the connection.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Refusal:
    """An answer that is no stream."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


Reply: TypeAlias = "Iterable[dict[str, Any] | bytes | float] | Refusal"


@dataclass
class Endpoint:
    """A server, what it was asked, and how it answers."""

    reply: Callable[[dict[str, Any]], Reply]
    base_url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sent: int = 0
    closed_at: list[float] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)


def a_chunk(text: str | None = None, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text} | delta, "finish_reason": finish_reason}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": "parrot-1", "choices": [choice]}


def a_usage(read: int = 11, written: int = 3) -> dict[str, Any]:
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return a_chunk() | {"choices": [], "usage": usage}


def a_call(index: int, name: str | None, arguments: str) -> dict[str, Any]:
    said = {"index": index, "function": {"name": name, "arguments": arguments}}
    return a_chunk(tool_calls=[said | ({"id": f"call-{index}", "type": "function"} if name else {})])


def words(text: str, pause_s: float = 0.0, finish_reason: str = "stop") -> Iterator[dict[str, Any] | bytes | float]:
    """Say a text in chunks of two letters, with silence in between."""
    for place in range(0, len(text), 2):
        yield a_chunk(text[place : place + 2])
        if pause_s:
            yield pause_s
    yield a_chunk(finish_reason=finish_reason)
    yield a_usage()
    yield b"data: [DONE]\n\n"


def an_echo(question: dict[str, Any]) -> Reply:
    return words(question["messages"][-1]["content"])


@contextmanager
def serving(reply: Callable[[dict[str, Any]], Reply] = an_echo) -> Iterator[Endpoint]:
    """Serve on loopback, at a port of its own."""
    endpoint = Endpoint(reply)
    server = _QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"endpoint": endpoint}))
    endpoint.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.endpoint.asked.append(question)
        self.endpoint.keys.append(self.headers["Authorization"])
        reply = self.endpoint.reply(question) if self.path == "/v1/chat/completions" else Refusal(404)
        if isinstance(reply, Refusal):
            self._refuse(reply)
        else:
            self._stream(reply)

    def _refuse(self, refusal: Refusal) -> None:
        text = refusal.body if isinstance(refusal.body, bytes) else json.dumps(refusal.body).encode()
        self.send_response(refusal.status)
        for name, value in refusal.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html" if text.startswith(b"<") else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, chunks: Iterable[dict[str, Any] | bytes | float]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for chunk in chunks:
            if isinstance(chunk, int | float):
                if self._is_closed_within(chunk):
                    self.endpoint.closed_at.append(time.monotonic())
                    return
            else:
                self.wfile.write(chunk if isinstance(chunk, bytes) else f"data: {json.dumps(chunk)}\n\n".encode())
                self.endpoint.sent += 1

    def _is_closed_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.endpoint.is_over.is_set():
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.05))
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return True
        return self.endpoint.is_over.is_set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests want."""
