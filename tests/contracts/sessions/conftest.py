"""Sessions on a real server and on the stand-in of an in-process bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fakeredis
import pytest
import redis

from petiole.events import Event
from petiole.tasks import (
    EventBus,
    open_session,
)
from petiole.tasks.sessions.session import Session
from tests.contracts.sessions.session import LIMITS
from tests.support.apps import a_bus, as_default


@pytest.fixture(params=["fakeredis", "valkey"])
def bus(request: pytest.FixtureRequest) -> Iterator[EventBus]:
    state: redis.Redis
    if request.param == "fakeredis":
        state = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    else:
        state = redis.Redis.from_url(request.getfixturevalue("clean_broker_url"), decode_responses=True)
    conf = {"broker_url": "memory://", "result_backend": "cache+memory://"}
    with state, a_bus(settings=LIMITS, state=state, conf=conf) as bus:
        yield bus


@pytest.fixture
def enter(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the input agent use this bus."""
    as_default(bus, monkeypatch)


@pytest.fixture
def publish(bus: EventBus) -> Callable[[Event], object]:
    return bus.publish.run


@pytest.fixture
def session(bus: EventBus) -> Session:
    return open_session("s", bus=bus)
