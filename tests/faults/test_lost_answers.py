"""A server that goes away between a command and its answer, while requests and readers wait."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from petiole.events.catalog.request import ResponseSuccessEvent, SuccessContent
from petiole.events.errors import BrokerUnavailable, PublishOutcomeUnknown, RequestTimedOut
from petiole.tasks import Agent, Chunk, EventBus, ResponseStreamReader, runtime
from petiole.tasks.requests.requester import PendingResponse, Requester, Response
from tests.support.apps import a_bus, publish_once
from tests.support.inside import Inside
from tests.support.polling import wait_until
from tests.support.response_streams import begin_response, write_response
from tests.support.traffic import an_event

service = Agent("data_service")


@service.answers("echo")
def echo(text: str) -> str:
    return text


@service.on("input.*")
def hear(event) -> None: ...


@pytest.fixture
def bus(proxy) -> EventBus:
    """Give a bus that has published before, so that the server knows its scripts and routing is read."""
    bus = a_bus(proxy.url, service)
    publish_once(bus, an_event())
    return bus


def test_a_request_whose_publish_lost_its_answer_waits_for_its_responder(server, proxy, bus):
    loss = proxy.lose_answers(to=b"request.made")

    response: PendingResponse[object] = Requester(bus)("echo", responder="data_service", text="hi", timeout=30)

    assert not loss.times
    assert not response.ready()
    assert Inside(a_bus(server.url)).topics() == ["input.message.received", "request.made"]


def test_a_request_whose_connection_is_lost_again_while_it_is_looked_up_has_an_unknown_outcome(proxy, bus):
    losses = [proxy.lose_answers(to=b"request.made"), proxy.lose_answers(to=b"HGET")]

    with pytest.raises(PublishOutcomeUnknown, match="requesting echo"):
        Requester(bus)("echo", responder="data_service", text="hi", timeout=30)

    assert not any(loss.times for loss in losses)


def test_a_publish_that_lost_its_answer_tells_who_gets_the_event(proxy, bus):
    event = an_event()
    loss = proxy.lose_answers(to=event.event_id.encode())

    assert publish_once(bus, event).subscriptions == ("data_service.hear",)
    assert not loss.times


@pytest.fixture
def hurried(monkeypatch) -> None:
    """Let clients wait a second for an answer."""
    monkeypatch.setitem(runtime._CLIENT, "socket_timeout", 1)


def seconds_of(call: Callable[[], object], *errors: type[Exception]) -> float:
    began = time.monotonic()
    with pytest.raises(errors):
        call()
    return time.monotonic() - began


def test_a_request_at_a_server_that_does_not_answer_fails_as_soon_as_a_publish(server, hurried):
    bus = a_bus(server.url, service)
    request = Requester(bus)
    publish_once(bus, an_event())
    # Whichever was lost: the answer to a command, or that to the greeting of a new connection.
    errors = PublishOutcomeUnknown, BrokerUnavailable

    with server.frozen():
        published_s = seconds_of(lambda: publish_once(bus, an_event()), *errors)
        requested_s = seconds_of(lambda: request("echo", responder="data_service", text="hi"), *errors)
        awaited_s = seconds_of(lambda: asyncio.run(request.aio("echo", responder="data_service", text="hi")), *errors)

    assert max(requested_s, awaited_s) < published_s + 10


def test_a_server_that_stops_answering_delays_the_end_of_a_request_by_one_wait_at_most(server, hurried):
    bus = a_bus(server.url, service)
    response: PendingResponse[object] = Requester(bus)("echo", responder="data_service", text="hi", timeout=1)

    with server.frozen():
        took_s = seconds_of(response.get, RequestTimedOut)

    assert took_s < 1 + 10


def test_awaiting_a_request_ends_at_its_deadline_without_the_server(server, hurried):
    bus = a_bus(server.url, service)

    def clients() -> list[dict[str, str]]:
        with server.client() as client:
            return list(client.client_list())

    async def wait() -> None:
        task: asyncio.Future[Response[object]] = asyncio.ensure_future(
            Requester(bus).aio("echo", responder="data_service", text="hi", timeout=1)
        )
        await asyncio.to_thread(wait_until, lambda: any(each["cmd"] == "blmove" for each in clients()), 20)
        server.kill()
        with pytest.raises(RequestTimedOut):
            await task

    asyncio.run(wait())


def test_no_awaited_reply_is_lost_with_the_connection_that_brought_it(server, proxy, bus):
    responder = a_bus(server.url)
    inside = Inside(responder)
    loss = proxy.lose_answers(to=b"BLMOVE", containing=b"request_id", times=3)

    def reply_to_all() -> None:
        wait_until(lambda: len(inside.history("request.made")) == 5, 20)
        for document in inside.history("request.made"):
            request = bus.event_registry.parse_json(json.dumps(document))
            asked: Any = request.content
            content = SuccessContent(
                request_id=asked.request_id,
                request_type=asked.request_type,
                requester=asked.requester,
                responder=asked.responder,
                parameters={"response": asked.parameters["text"]},
            )
            publish_once(responder, request.caused(ResponseSuccessEvent, content=content))

    async def ask(text: str) -> object:
        response: Response[object] = await Requester(bus).aio("echo", responder="data_service", text=text, timeout=30)
        return response.value

    async def ask_all() -> list[object]:
        return await asyncio.gather(asyncio.to_thread(reply_to_all), *map(ask, "01234"))

    assert asyncio.run(ask_all()) == [None, *"01234"]
    assert not loss.times


@pytest.mark.parametrize("way", ["sync", "async"])
def test_readers_continue_after_a_restart_of_the_server(way, server, eventually):
    bus = a_bus(server.url)
    begin_response(bus)
    write_response(bus, "one ")
    read = ResponseStreamReader(a_bus(server.url))
    chunks: list[str] = []

    def note(chunk: Chunk) -> None:
        chunks.append(chunk.text)

    async def read_async() -> None:
        async for chunk in read.aio("s", "a", timeout=30):
            note(chunk)

    def read_all() -> None:
        if way == "async":
            asyncio.run(read_async())
            return
        for chunk in read("s", "a", timeout=30):
            note(chunk)

    thread = threading.Thread(target=read_all)
    thread.start()
    eventually(lambda: "one " in chunks, 20)
    server.kill()
    server.start()
    write_response(bus, "two ", ".")
    thread.join(30)

    assert "".join(chunks) == "one two ."


def test_a_reader_is_told_of_a_server_that_does_not_come_back(server):
    bus = a_bus(server.url)
    begin_response(bus)
    server.kill()

    with pytest.raises(BrokerUnavailable, match="while reading a response"):
        list(ResponseStreamReader(bus)("s", "a", timeout=1))
