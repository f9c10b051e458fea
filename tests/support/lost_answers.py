"""A publish whose answer is lost, and a response that is written past any agent."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from petiole.tasks import EventBus


def lose_the_next_answer(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next publish be done, and its answer be lost."""
    publish, losses = bus.stores.publications.publish, [RedisConnectionError("the answer is lost")]

    def publish_and_lose(*arguments, **options):
        result = publish(*arguments, **options)
        if losses:
            raise losses.pop()
        return result

    monkeypatch.setattr(bus.stores.publications, "publish", publish_and_lose)


def lose_each_look_at_a_request(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose the connection whenever it is looked up who made a request."""

    def lose(*_: object) -> bool:
        raise RedisConnectionError("Connection reset by peer")

    monkeypatch.setattr(bus.stores.requests, "is_owner", lose)


def begin_response(bus: EventBus) -> None:
    """Begin the response `a` in the stream `s`."""
    bus.stores.response_streams.begin("s", "a", correlation_id="f", token="t")


def write_response(bus: EventBus, *words: str) -> None:
    """Write words of that response; a full stop ends it."""
    for word in words:
        bus.stores.response_streams.write("s", "a", token="t", text=word, end="finished" if word == "." else None)
