"""What every channel promises, and what the webhook and server-sent events make of the moods of those at the other end.

The receiver of the webhook is a real HTTP server of this file; the server of answers is a real one, over a real store.
"""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
import redis
import uvicorn
from standardwebhooks import Webhook, WebhookVerificationError

from petiole.events.errors import (
    NotConfigured,
    ProviderRefused,
    ProviderUnavailable,
    RetryLater,
    ServiceUnavailable,
    UsageError,
)
from petiole.tasks.bus import EventBus
from petiole.tasks.settings import Settings
from petiole.workers.channels import Mailbox, OutputChannel, Terminal, open_channels
from petiole.workers.channels.server_sent_events import ConnectionCount, ConnectionLimits, create_app
from petiole.workers.channels.webhook import open_webhook
from petiole.workers.cli.serve import StoredAnswerStreams
from petiole.workers.state import team_state
from tests.support.apps import a_bus, as_default
from tests.support.errors import has_code

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()

Shown = Callable[[int], list[str]]
"""Reads what the user of stream `s` sees: so many messages at least."""


# A receiver of webhooks


@dataclass
class Receiver:
    """An HTTP server, what it got, and how it answers: each status in turn, the last for ever."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(204, {})])
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    is_slow: bool = False


def a_handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if receiver.is_slow:
                receiver.is_over.wait(30)
            status, headers = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    return Handler


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests want."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, bus: EventBus) -> Iterator[Receiver]:
    made = Receiver()
    server = QuietServer(("127.0.0.1", 0), a_handler(made))
    made.url = f"http://127.0.0.1:{server.server_port}/hook"
    monkeypatch.setenv("PETIOLE_WEBHOOK_URL", made.url)
    monkeypatch.setenv("PETIOLE_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("PETIOLE_WEBHOOK_TIMEOUT_S", "0.5")
    monkeypatch.setenv("NO_PROXY", "*")
    as_default(bus, monkeypatch)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def webhook(receiver: Receiver) -> OutputChannel:
    made = open_webhook()
    assert made is not None
    return made


# A server of answers


@dataclass(frozen=True)
class Served:
    """A server that runs in a thread."""

    url: str
    port: int
    gate: ConnectionCount

    def read(
        self, count: int, *, stream_id: str = "s", last: str | None = None, of: str = "events"
    ) -> list[tuple[str, dict[str, str]]]:
        """Read so many events as a browser would: each one's id, and its data."""
        headers = {} if last is None else {"Last-Event-ID": last}
        found: list[tuple[str, dict[str, str]]] = []
        entry_id = ""
        with httpx2.stream("GET", f"{self.url}/streams/{stream_id}/{of}", headers=headers, timeout=10) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    entry_id = value
                elif name == "data":
                    found.append((entry_id, json.loads(value)))
                if len(found) == count:
                    break
        return found


@contextmanager
def served(bus: EventBus, limits: ConnectionLimits | None = None) -> Iterator[Served]:
    gate = ConnectionCount(limits or ConnectionLimits())
    made = create_app(StoredAnswerStreams(bus), gate)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(made, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{port}", port, gate)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def bus(clean_broker_url: str) -> Iterator[EventBus]:
    with a_bus() as bus:
        bus.app.conf.update(broker_url=clean_broker_url, result_backend=clean_broker_url)
        yield bus


# Every channel


@pytest.fixture(params=["mailbox", "terminal", "webhook", "server-sent events"])
def way(request: pytest.FixtureRequest, bus: EventBus) -> Iterator[tuple[OutputChannel, Shown]]:
    """Give a channel, and how to see what its user sees."""
    mailbox = Mailbox(team_state(bus).outbound_messages.append)
    match request.param:
        case "mailbox":

            def taken(count: int) -> list[str]:
                looks = (team_state(bus).outbound_messages.take("s", 0.01) for _ in range(count + 1))
                return [reply.text for reply in looks if reply]

            yield mailbox, taken
        case "terminal":
            output = io.StringIO()
            yield Terminal(output), lambda _: [line.removeprefix("[s] ") for line in output.getvalue().splitlines()]
        case "webhook":
            receiver = request.getfixturevalue("receiver")
            yield (
                request.getfixturevalue("webhook"),
                lambda _: [json.loads(body)["data"]["text"] for _, body in receiver.got],
            )
        case _:
            with served(bus) as server:
                yield mailbox, lambda count: [said["text"] for _, said in server.read(count)]


def test_a_channel_shows_what_was_sent_in_its_order(way):
    channel, shown = way
    texts = ["Hello", "Grüße, 你好 👩\u200d🔬", "three"]

    for number, text in enumerate(texts):
        channel.send("s", f"m-{number}", channel.format(text))

    assert shown(3) == texts


def test_a_message_sent_again_under_its_id_is_what_the_channel_says(way):
    channel, shown = way

    for _ in range(2):
        channel.send("s", "m-1", channel.format("Hello"))
    channel.send("s", "m-2", channel.format("Goodbye"))

    expected = ["Hello", "Goodbye"] if channel.on_duplicate == "harmless" else ["Hello", "Hello", "Goodbye"]
    assert shown(len(expected)) == expected


def test_formatting_twice_is_formatting_once(way):
    channel, _ = way

    once = channel.format("two\nlines\t\x1b[2J")

    assert channel.format(once) == once


# The webhook


def test_a_webhook_is_signed_as_standard_webhooks_has_it(receiver, webhook):
    webhook.send("s", "m-1", "Grüße")

    ((headers, body),) = receiver.got
    assert json.loads(body) == {
        "type": "output.message",
        "data": {"stream_id": "s", "message_id": "m-1", "text": "Grüße"},
    }
    Webhook(SECRET).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers | {"webhook-id": "m-2"})
    assert (headers["content-type"], headers["webhook-id"], headers["idempotency-key"]) == (
        "application/json",
        "m-1",
        "m-1",
    )


def test_a_repeated_webhook_has_the_same_id_and_body(receiver, webhook):
    for _ in range(2):
        webhook.send("s", "m-1", "Hello")

    (first, one), (second, two) = receiver.got
    assert one == two
    assert first["webhook-id"] == second["webhook-id"] == first["idempotency-key"] == second["idempotency-key"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_means_later(receiver, webhook, status):
    receiver.answers = [(status, {})]

    with pytest.raises(ProviderUnavailable, match=f"status {status}"):
        webhook.send("s", "m-1", "Hello")

    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 409, 410, 422])
def test_a_status_that_stays_means_never(receiver, webhook, status):
    receiver.answers = [(status, {"Location": receiver.url})]

    with pytest.raises(ProviderRefused, match=f"status {status}"):
        webhook.send("s", "m-1", "Hello")

    assert len(receiver.got) == 1


def test_a_receiver_that_says_when_to_come_again_is_obeyed(receiver, webhook):
    receiver.answers = [(429, {"Retry-After": "7"})]

    with pytest.raises(RetryLater, check=has_code("service_throttled")) as throttled:
        webhook.send("s", "m-1", "Hello")

    assert throttled.value.after_s == pytest.approx(7, abs=1)


def test_silence_means_later(receiver, webhook):
    receiver.is_slow = True

    with pytest.raises(ProviderUnavailable, match="timed out"):
        webhook.send("s", "m-1", "Hello")


def test_a_refused_connection_means_later_and_then_nobody_is_asked(receiver, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        monkeypatch.setenv("PETIOLE_WEBHOOK_URL", f"http://127.0.0.1:{gone.getsockname()[1]}/hook")
    webhook = open_webhook()
    assert webhook is not None

    for _ in range(5):
        with pytest.raises(ProviderUnavailable):
            webhook.send("s", "m-1", "Hello")

    with pytest.raises(ServiceUnavailable, match=r"channel\.webhook"):
        webhook.send("s", "m-1", "Hello")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"PETIOLE_WEBHOOK_SECRET": ""}, "PETIOLE_WEBHOOK_SECRET"),
        ({"PETIOLE_WEBHOOK_SECRET": "hush-hush"}, "PETIOLE_WEBHOOK_SECRET: .*whsec_"),
        ({"PETIOLE_WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "PETIOLE_WEBHOOK_SECRET: .*24"),
        ({"PETIOLE_WEBHOOK_URL": "ftp://hush-hush"}, "PETIOLE_WEBHOOK_URL"),
        ({"PETIOLE_WEBHOOK_TIMEOUT_S": "0"}, "PETIOLE_WEBHOOK_TIMEOUT_S"),
    ],
    ids=["none", "no prefix", "short", "ftp", "no time"],
)
def test_a_webhook_that_is_configured_wrongly_is_refused_by_name_and_tells_no_secret(
    receiver, monkeypatch, settings, named
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(NotConfigured, match=named) as refused:
        open_webhook()

    assert "hush-hush" not in f"{refused.value} {refused.value.__cause__}"


@pytest.mark.parametrize("package", ["httpx2", "standardwebhooks"])
def test_without_its_packages_the_extra_is_named(receiver, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PETIOLE_WEBHOOK_TIMEOUT_S", "3.25")  # one that was not opened before

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"petiole\[webhook\]"):
        open_webhook()


def test_channels_are_opened_where_they_are_asked_for(receiver, monkeypatch):
    monkeypatch.setenv("PETIOLE_TERMINAL_CHANNEL", "true")

    assert [channel.name for channel in open_channels(lambda *_: None)] == ["mailbox", "webhook", "terminal"]


# Server-sent events


def say(bus: EventBus, texts: Sequence[str], stream_id: str = "s") -> None:
    for text in texts:
        team_state(bus).outbound_messages.append(stream_id, text, text)


def texts_of(found: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    return [said["text"] for _, said in found]


def test_a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice(bus):
    said = [str(number) for number in range(20)]
    with served(bus) as server:
        say(bus, said[:10])
        first = server.read(4)
        say(bus, said[10:])

        again = server.read(16, last=first[-1][0])

    assert texts_of(first) + texts_of(again) == said


def test_a_reader_sees_what_comes_while_it_reads_and_only_of_its_stream(bus):
    with served(bus) as server:
        speaker = threading.Thread(target=say_when_read, args=(bus, server))
        speaker.start()
        assert texts_of(server.read(2, stream_id="a/b c")) == ["one", "two"]
        speaker.join()


def say_when_read(bus: EventBus, server: Served) -> None:
    until(lambda: server.gate.open == 1)
    say(bus, ["other"], "other")
    say(bus, ["one", "two"], "a/b c")


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_an_answer_is_read_while_it_is_written_from_wherever_a_reader_left_off(bus):
    words = [f"word {number} " for number in range(20)]
    drafts = bus.stores.response_streams
    drafts.begin("s", "an-answer", correlation_id="a-flow", token="me")
    for word in words[:10]:
        drafts.write("s", "an-answer", token="me", text=word)

    with served(bus) as server:
        first = server.read(8, of="text")
        writer = threading.Thread(target=finish, args=(bus, server, words[10:]))
        writer.start()
        rest = server.read(22 - 8, of="text", last=first[-1][0])
        writer.join()

    assert "".join(texts_of(first) + texts_of(rest)) == "".join(words)
    places = [int(place) for place, _ in first + rest]
    assert places == list(range(places[0], places[0] + 22))
    assert {said["answer_id"] for _, said in first + rest} == {"an-answer"}


def finish(bus: EventBus, server: Served, words: Sequence[str]) -> None:
    until(lambda: server.gate.open == 1)
    for word in words:
        bus.stores.response_streams.write("s", "an-answer", token="me", text=word)
    bus.stores.response_streams.write("s", "an-answer", token="me", end="finished")


def test_a_reader_that_was_away_for_too_long_goes_on_with_what_is_kept(bus):
    bus.settings = Settings(max_response_stream_chunks=5)
    drafts = bus.stores.response_streams
    drafts.begin("s", "an-answer", correlation_id="a-flow", token="me")
    (first,) = drafts.read("s", after=0)
    for number in range(20):
        drafts.write("s", "an-answer", token="me", text=str(number))
    kept = [piece.text for piece in drafts.read("s", after=first.number)]

    with served(bus) as server:
        assert texts_of(server.read(len(kept), of="text", last=str(first.number))) == kept
    assert 5 <= len(kept) < 20


def test_several_read_at_once_and_taking_an_answer_keeps_it_from_no_reader(bus):
    say(bus, ["one", "two"])
    taken = team_state(bus).outbound_messages.take("s", 0)
    assert taken is not None
    assert taken.text == "one"

    with served(bus) as server:
        assert [texts_of(server.read(2)) for _ in range(3)] == [["one", "two"]] * 3


def test_above_the_limit_a_reader_is_told_to_come_later(bus):
    with served(bus, ConnectionLimits(connections=1)) as server:
        with httpx2.stream("GET", f"{server.url}/streams/s/events", timeout=10):
            until(lambda: server.gate.open == 1)
            refused = httpx2.get(f"{server.url}/streams/s/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        until(lambda: server.gate.open == 0)
        say(bus, ["one"])
        assert texts_of(server.read(1)) == ["one"]


@pytest.mark.parametrize("last", ["yesterday", "1", "$", "1-1 2"])
def test_a_place_that_is_none_is_refused(bus, last):
    with served(bus) as server:
        assert httpx2.get(f"{server.url}/streams/s/events", headers={"Last-Event-ID": last}).status_code == 400


def test_a_silent_connection_is_kept_up(bus):
    with (
        served(bus, ConnectionLimits(ping_s=0.1)) as server,
        httpx2.stream("GET", f"{server.url}/streams/s/events", timeout=10) as response,
    ):
        lines = response.iter_lines()
        assert [line[:1] for line in (next(lines), next(lines), next(lines))] == [":", "", ":"]


def test_a_reader_that_takes_nothing_is_dropped(bus):
    with served(bus, ConnectionLimits(send_timeout_s=0.5)) as server, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        reader.connect(("127.0.0.1", server.port))
        reader.sendall(b"GET /streams/s/events HTTP/1.1\r\nHost: here\r\n\r\n")
        until(lambda: server.gate.open == 1)

        say(bus, [f"{number} {'x' * 100_000}" for number in range(20)])

        until(lambda: server.gate.open == 0)


def test_a_reader_whose_store_goes_away_is_let_go(bus, clean_broker_url):
    with served(bus) as server, httpx2.stream("GET", f"{server.url}/streams/s/events", timeout=30) as response:
        until(lambda: server.gate.open == 1)
        killer: Any = redis.Redis.from_url(clean_broker_url)
        until(lambda: killer.info("clients")["blocked_clients"] > 0)
        killer.client_kill_filter(_type="normal", skipme=True)

        assert all(not line or line.startswith(":") for line in response.iter_lines())
        until(lambda: server.gate.open == 0)


def test_without_its_packages_the_extra_of_the_server_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    reader: Any = None

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"petiole\[sse\]"):
        create_app(reader, ConnectionCount(ConnectionLimits()))


def test_the_command_serves_until_it_is_told_to_end(node, bus, eventually):
    say(bus, ["one"])
    process = node.start("petiole.workers.cli", "serve", "--port", "0")
    eventually(lambda: "serving http" in node.logs(), 30, node.logs)
    url = node.logs().split("serving ")[1].split("/streams/")[0]

    assert texts_of(Served(url, 0, ConnectionCount(ConnectionLimits())).read(1)) == ["one"]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=15) == 0
    assert "Traceback" not in node.logs()
