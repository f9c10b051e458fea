"""Sessions on a real server and on the stand-in of an in-process bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import fakeredis
import pytest
import redis

from petiole.events import Event
from petiole.tasks import (
    mark_session_started,
    open_session,
    record_session_event,
)
from petiole.tasks.bus import EventBus
from petiole.tasks.sessions.session import Session
from petiole.workers.agents import input as input_agent
from tests.contracts.sessions.session import LIMITS
from tests.support.apps import a_bus


@pytest.fixture(params=["fakeredis", "valkey"])
def bus(request: pytest.FixtureRequest) -> Iterator[EventBus]:
    state: redis.Redis
    if request.param == "fakeredis":
        state = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    else:
        state = redis.Redis.from_url(request.getfixturevalue("clean_broker_url"), decode_responses=True)
    with state, a_bus(settings=LIMITS, state=state) as bus:
        bus.app.conf.update(broker_url="memory://", result_backend="cache+memory://")
        yield bus


@pytest.fixture
def enter(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the input agent use this bus."""
    for step in (record_session_event, mark_session_started):
        monkeypatch.setattr(input_agent, step.__name__, partial(step, bus=bus))


@pytest.fixture
def publish(bus: EventBus) -> Callable[[Event], object]:
    return bus.publish.run


@pytest.fixture
def session(bus: EventBus) -> Session:
    return open_session("s", bus=bus)
