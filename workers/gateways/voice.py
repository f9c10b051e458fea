"""Speak and listen over a WebSocket, for browsers and other clients.

    GET /voice/                                           a page to speak on, which uses it
    GET /streams/{stream_id}/voice?sample_rate=16000      a WebSocket

    client → server    binary: 16-bit mono PCM at the sample rate, in chunks of any length up to 10 s
                       {"type": "end"}: the audio of the stream ends
    server → client    {"type": TOPIC, "content": {…}} for each event of TOPICS in the stream
                       after {"type": "output.audio.chunk", …} a binary message with the audio of that chunk
                       {"type": "error", "code": …, "message": …}

A client that plays audio empties its buffer on `stream.speech.started`. One that reconnects goes on in the same stream.

Pages of browsers send their token as a subprotocol (identities.py). A client of a stream that another user has begun is
refused. A browser does not show why: a GET of the same address does. A connection is closed when it sends nothing for
IDLE_TIMEOUT_S. Needs the extras `sse` and `voice`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from petiole.events.content import AudioContent
from petiole.events.errors import InvalidEvent, PetioleError, SessionEnded, error_type_of
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime
from petiole.workers.agents.input import publish_audio
from petiole.workers.gateways.identities import SUBPROTOCOL, check_stream
from petiole.workers.gateways.messages import user_of
from petiole.workers.gateways.problems import RequestRefused, answer_problems, refuse
from petiole.workers.streams.pcm import MODEL_SAMPLE_RATE, SAMPLE_BYTES, check_audio

TOPICS: Final = frozenset(
    {
        "stream.gap.detected",
        "stream.speech.started",
        "stream.speech.stopped",
        "stream.transcription.updated",
        "stream.utterance.completed",
        "output.message.sent",
        "output.message.failed",
        "output.audio.chunk",
        "output.speech.interrupted",
    }
)
IDLE_TIMEOUT_S: Final = 120.0
MAX_CONNECTIONS: Final = 20
_MAX_RATE_DIGITS: Final = 6
_READ_BLOCK_MS: Final = 200
_END_MS: Final = 100
_NORMAL_CLOSURE: Final = 1000
_POLICY_VIOLATION: Final = 1008
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes of the page and of the WebSocket."""
    gateway = VoiceGateway(bus)
    page = VoicePage(directory=Path(__file__).with_name("static"), html=True)
    address = "/streams/{stream_id:path}/voice"
    return [
        Mount("/voice", page),
        WebSocketRoute(address, gateway.serve),
        Route(address, answer_problems(gateway.explain), methods=["GET"]),
    ]


class VoicePage(StaticFiles):
    """The page and what it loads, all of it from this server."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve a file, with the policy that keeps the page to this server."""
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
        return response


class VoiceGateway:
    """Serves the connections of one process."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._open = 0
        # One thread of a connection waits for events, another one publishes audio.
        self._threads = ThreadPoolExecutor(2 * MAX_CONNECTIONS, thread_name_prefix="voice")

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client until either side closes the connection."""
        try:
            await run_in_threadpool(partial(self._check, websocket, is_write=True))
        except RequestRefused as error:
            await refuse(error, websocket.scope, websocket.receive, websocket.send)
            return
        self._open += 1
        try:
            await self._talk(websocket)
        finally:
            self._open -= 1

    async def explain(self, request: Request) -> Response:
        """Answer a request that opens no WebSocket with the reason why one is refused."""
        await run_in_threadpool(self._check, request)
        raise RequestRefused(HTTPStatus.UPGRADE_REQUIRED, "this is the address of a WebSocket; open one")

    def _check(self, connection: HTTPConnection, *, is_write: bool = False) -> None:
        """Raise RequestRefused unless the caller may speak in the stream, and there is room for one more."""
        rate = connection.query_params.get("sample_rate", str(MODEL_SAMPLE_RATE))
        if not rate.isdecimal() or len(rate) > _MAX_RATE_DIGITS:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"sample_rate: give a number, such as {MODEL_SAMPLE_RATE}")
        if self._open >= MAX_CONNECTIONS:
            reason = f"{MAX_CONNECTIONS} clients are connected, and there is no room for more; try again later"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        check_stream(self._bus, connection.scope, connection.path_params["stream_id"], is_write=is_write)

    async def _talk(self, websocket: WebSocket) -> None:
        call = VoiceCall(
            self._bus,
            str(websocket.path_params["stream_id"]),
            int(websocket.query_params.get("sample_rate", MODEL_SAMPLE_RATE)),
            user_of(websocket.scope),
        )
        run = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        await run(call.begin)
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
        # An event of audio and its bytes stay together.
        turn = asyncio.Lock()
        receiving = asyncio.create_task(_receive(websocket, call, run, turn))
        sending = asyncio.create_task(_send(websocket, call, run, turn))
        done, pending = await asyncio.wait((receiving, sending), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait((receiving, sending))
        for task in done:
            if (error := task.exception()) and not isinstance(error, WebSocketDisconnect):
                raise error
        # Only now is nothing sent any more.
        if receiving in done and not receiving.exception() and (code := receiving.result()):
            await websocket.close(code)


@dataclass(slots=True)
class VoiceCall:
    """One connection: its stream, and how far its events were read. Its methods wait for the state store."""

    bus: BusRuntime
    stream_id: str
    sample_rate: int
    user_id: str | None
    entry_id: str = field(default="")

    def begin(self) -> None:
        """Read events from now on."""
        self.entry_id = self.bus.stores.history.last_entry_id()

    def publish(self, data: bytes, *, is_last: bool = False) -> None:
        """Publish a chunk of audio. Raises: InvalidEvent, SessionEnded, UsageError (audio_ended), BrokerUnavailable."""
        duration_ms = max(1, round(len(data) / SAMPLE_BYTES * 1_000 / (self.sample_rate or 1)))
        fields = {"data": data, "duration_ms": duration_ms, "sample_rate": self.sample_rate, "is_last": is_last}
        try:
            content = AudioContent.model_validate(fields)
        except ValidationError as error:
            raise InvalidEvent("input.audio.chunk", "content.data", "is empty; send whole samples") from error
        check_audio(content)
        publish_audio(
            content,
            stream_id=self.stream_id,
            user_id=self.user_id,
            source="voice",
            publish=lambda event: commit(self.bus, [validate(self.bus, event)]),
            bus=self.bus,
        )

    def end(self) -> None:
        """End the audio of the stream, with a moment of silence. Raises as `publish`."""
        self.publish(bytes(SAMPLE_BYTES * (self.sample_rate * _END_MS // 1_000)), is_last=True)

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        """Wait a moment for events, and return the topics and contents of those that the client gets."""
        found: list[tuple[str, dict[str, Any]]] = []
        for recorded in self.bus.stores.history.read_after(self.entry_id, block_ms=_READ_BLOCK_MS):
            self.entry_id = recorded.entry_id
            if recorded.topic in TOPICS and recorded.attributes["stream_id"] == self.stream_id:
                event = self.bus.event_registry.read(recorded.document)
                found.append((recorded.topic, event.content.model_dump()))
        return found


async def _receive(websocket: WebSocket, call: VoiceCall, run: Any, turn: asyncio.Lock) -> int | None:
    """Publish what the client says, until it leaves or says nothing for too long.

    Returns: the code to close the connection with; None when the client has left.
    """
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                message = await websocket.receive()
        except TimeoutError:
            return _NORMAL_CLOSURE
        if message["type"] == "websocket.disconnect":
            return None
        try:
            await run(partial(_handle_message, call, message))
        except PetioleError as error:
            async with turn:
                await websocket.send_json({"type": "error", "code": error_type_of(error), "message": str(error)})
            if isinstance(error, SessionEnded) or error.code == "audio_ended":
                return _POLICY_VIOLATION


def _handle_message(call: VoiceCall, message: Mapping[str, Any]) -> None:
    if (data := message.get("bytes")) is not None:
        call.publish(data)
    elif _is_end(str(message.get("text"))):
        call.end()
    else:
        raise InvalidEvent("input.audio.chunk", "type", 'is unknown; send audio as binary, or {"type": "end"}')


def _is_end(text: str) -> bool:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and parsed.get("type") == "end"


async def _send(websocket: WebSocket, call: VoiceCall, run: Any, turn: asyncio.Lock) -> None:
    """Send the events of the stream and the audio of its answers."""
    while True:
        for topic, content in await run(call.read):
            async with turn:
                for message in _messages(topic, content):
                    if isinstance(message, bytes):
                        await websocket.send_bytes(message)
                    else:
                        await websocket.send_text(message)


def _messages(topic: str, content: dict[str, Any]) -> Iterator[str | bytes]:
    data = content.pop("data", None)
    yield json.dumps({"type": topic, "content": content}, ensure_ascii=False, default=str)
    if data is not None:
        yield data
