"""Readers of server-sent events miss nothing, see nothing twice, and are bounded."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import Any

import httpx2
import pytest
import redis
from click.testing import CliRunner

from petiole.events.errors import (
    UsageError,
)
from petiole.tasks import EventBus
from petiole.tasks.settings import Settings
from petiole.workers.channels import http_server
from petiole.workers.channels.http_server import MAX_WAITING_CONNECTIONS
from petiole.workers.cli.serve import command as serve
from petiole.workers.gateways import application
from petiole.workers.gateways.access import AccessLimits
from petiole.workers.gateways.application import create_application
from petiole.workers.state import team_state
from tests.contracts.channels.answers import Served, served, serving
from tests.support.errors import has_code


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
    with served(bus, AccessLimits(connections=1)) as server:
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
        served(bus, AccessLimits(ping_s=0.1)) as server,
        httpx2.stream("GET", f"{server.url}/streams/s/events", timeout=10) as response,
    ):
        lines = response.iter_lines()
        assert [line[:1] for line in (next(lines), next(lines), next(lines))] == [":", "", ":"]


def test_a_reader_that_takes_nothing_is_dropped(bus):
    with served(bus, AccessLimits(send_timeout_s=0.5)) as server, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        reader.connect(("127.0.0.1", server.port))
        reader.sendall(b"GET /streams/s/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: server.gate.open == 1)

        say(bus, [f"{number} {'x' * 100_000}" for number in range(20)])

        until(lambda: server.gate.open == 0)


def test_a_client_that_does_not_read_its_answer_is_cut_off_and_a_slow_one_is_not(monkeypatch):
    monkeypatch.setattr(http_server, "SEND_TIMEOUT_S", 1.0)
    size, ended = 2_000_000, threading.Semaphore(0)

    async def large_page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for is_last in (False, True):
            await send({"type": "http.response.body", "body": b"x" * (size // 2), "more_body": not is_last})
        ended.release()

    with serving(large_page) as url, ExitStack() as sockets:
        idle, slow = (
            sockets.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))) for _ in "12"
        )
        for client in (idle, slow):
            client.settimeout(20)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

        read_slowly, read_late = read_all(slow, pause_s=0.01), 0
        assert ended.acquire(timeout=20)
        assert ended.acquire(timeout=20)
        with suppress(OSError):
            read_late = read_all(idle)

    assert read_slowly > size
    assert read_late < size


def read_all(client: socket.socket, *, pause_s: float = 0.0) -> int:
    """Read to the end, with a pause after each part; gives the number of bytes."""
    count = 0
    while part := client.recv(20_000):
        count += len(part)
        time.sleep(pause_s)
    return count


def test_a_reader_whose_store_goes_away_is_let_go(bus, clean_broker_url):
    with served(bus) as server, httpx2.stream("GET", f"{server.url}/streams/s/events", timeout=30) as response:
        until(lambda: server.gate.open == 1)
        killer: Any = redis.Redis.from_url(clean_broker_url)
        until(lambda: killer.info("clients")["blocked_clients"] > 0)
        killer.client_kill_filter(_type="normal", skipme=True)

        assert all(not line or line.startswith(":") for line in response.iter_lines())
        until(lambda: server.gate.open == 0)


@pytest.mark.parametrize("package", ["starlette", "sse_starlette", "uvicorn"])
def test_without_its_packages_the_extra_of_the_server_is_named(bus, monkeypatch, package):
    leave_out(package, monkeypatch)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"petiole\[sse\]"):
        create_application(bus)


def leave_out(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "find_spec", lambda name: None if name == package else find_spec(name))


def test_the_command_without_its_extra_says_so_at_start_also_without_a_broker(monkeypatch):
    leave_out("sse_starlette", monkeypatch)

    ended = CliRunner().invoke(serve, ["--port", "0"])

    assert "petiole[sse]" in str(ended.exception)


def test_one_client_does_not_keep_the_others_out(bus):
    with served(bus, AccessLimits(connections=4, connections_per_client=2)) as server, ExitStack() as open_streams:
        for _ in range(2):
            open_streams.enter_context(httpx2.stream("GET", f"{server.url}/streams/s/events", timeout=10))
        until(lambda: server.gate.open == 2)
        assert httpx2.get(f"{server.url}/streams/s/events").status_code == 503

        other = {"X-Forwarded-For": "10.0.0.7"}
        open_streams.enter_context(httpx2.stream("GET", f"{server.url}/streams/s/events", headers=other, timeout=10))
        until(lambda: server.gate.open == 3)
    assert server.gate.open == 0


@pytest.mark.parametrize("sent", [b"", b"GET /streams/s/events HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_half_sent_requests_are_bounded_for_each_client_and_end(bus, sent, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 1.0)
    with served(bus) as server, ExitStack() as sockets:
        began = time.monotonic()
        clients = [sockets.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(100)]
        for client in clients:
            client.settimeout(20)
            with suppress(OSError):
                client.sendall(sent)

        refused = [client for client in clients[MAX_WAITING_CONNECTIONS:] if has_ended(client)]
        assert len(refused) == 100 - MAX_WAITING_CONNECTIONS
        assert all(has_ended(client) for client in clients)
        assert 0.9 < time.monotonic() - began < 15
        say(bus, ["one"])
        assert texts_of(server.read(1)) == ["one"]


def test_a_second_request_that_is_half_sent_ends_too(bus, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 1.0)
    with served(bus) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(20)
        client.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"404" in client.recv(4_096)

        client.sendall(b"GET /nothing HTTP/1.1\r\nHost: local")

        assert has_ended(client)


def has_ended(client: socket.socket) -> bool:
    """Wait until the server closes the connection."""
    try:
        while client.recv(4_096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_the_command_serves_callers_with_a_token_until_it_is_told_to_end(node, eventually):
    process = node.start("petiole.workers.cli", "serve", "--port", "0", "--auth")
    eventually(lambda: "tokens: " in node.logs(), 60, node.logs)
    url = node.logs().split("serving ")[1].split("/streams/")[0] + "/ag-ui/threads/t/runs/none"
    token = (node.home / node.logs().split("tokens: ")[1].splitlines()[0]).read_text().split()[-1]

    assert httpx2.get(url).status_code == 401
    assert httpx2.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 404
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=15) == 0
    assert "Traceback" not in node.logs()
