"""A queue that is full: what a publisher meets there, with no worker to empty it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

import pytest
import redis

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import Misuse, QueueFull
from petiole.events.subscriptions import Overflow
from petiole.tasks import Agent
from petiole.tasks.celery import EventApp
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.document import admit
from petiole.tasks.settings import Settings

CAPACITY = 10


def an_app(url: str, overflow: Overflow, *, block_timeout_s: float = 1.0) -> EventApp:
    settings = Settings(queue_full_timeout_s=block_timeout_s)
    app = EventApp("capacity", settings=settings, set_as_current=False)
    app.conf.update(broker_url=url, result_backend=url)
    memory = Agent("memory", capacity=CAPACITY, overflow=overflow)

    @memory.on("input.*")
    def keep(event: Event) -> None: ...

    app.stores.directory.announce(memory.subscriptions)
    return app


def publish(app: EventApp, number: int = 0) -> Publication:
    event = TextMessageEvent(stream_id="s", content=TextContent(text=str(number)), priority=9)
    return dispatch(app, [admit(event, app.event_registry, app.settings.max_event_bytes)])[0]


def waiting(url: str) -> int:
    return redis.Redis.from_url(url).llen("memory")


def test_exactly_the_capacity_is_accepted_and_the_rest_refused(clean_broker_url):
    app = an_app(clean_broker_url, "reject")

    for number in range(CAPACITY):
        publish(app, number)
    for number in range(CAPACITY, 25):
        with pytest.raises(QueueFull, match="'memory' is full"):
            publish(app, number)

    assert waiting(clean_broker_url) == CAPACITY
    assert len(app.stores.history.since()) == CAPACITY


def test_a_publisher_waits_for_room_as_long_as_it_is_told(clean_broker_url):
    app = an_app(clean_broker_url, "block", block_timeout_s=0.5)
    for number in range(CAPACITY):
        publish(app, number)
    began = time.monotonic()

    with pytest.raises(QueueFull):
        publish(app)

    assert 0.4 < time.monotonic() - began < 5


def test_a_waiting_publisher_goes_on_when_there_is_room(clean_broker_url):
    app = an_app(clean_broker_url, "block", block_timeout_s=20)
    for number in range(CAPACITY):
        publish(app, number)
    Timer(0.2, redis.Redis.from_url(clean_broker_url).rpop, ["memory"]).start()

    assert publish(app).subscriptions == ("memory.keep",)

    assert waiting(clean_broker_url) == CAPACITY


def test_the_oldest_gives_way_and_is_counted(clean_broker_url):
    app = an_app(clean_broker_url, "drop_oldest")

    for number in range(25):
        publish(app, number)

    assert waiting(clean_broker_url) == CAPACITY
    assert app.stores.counters.all() == {"lagged:memory": 15}
    assert len(app.stores.history.since()) == 25


def test_racing_publishers_never_exceed_the_capacity(clean_broker_url):
    apps = [an_app(clean_broker_url, "reject") for _ in range(8)]

    def try_to_publish(app: EventApp) -> int:
        accepted = 0
        for number in range(5):
            try:
                publish(app, number)
                accepted += 1
            except QueueFull:
                continue
        return accepted

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(try_to_publish, apps))

    assert sum(accepted) == waiting(clean_broker_url) == CAPACITY


def test_a_full_queue_of_one_agent_keeps_the_event_from_all(clean_broker_url):
    app = an_app(clean_broker_url, "reject")
    other = Agent("other")

    @other.on("input.*")
    def hear(event: Event) -> None: ...

    app.stores.directory.announce(other.subscriptions)
    for number in range(CAPACITY):
        publish(app, number)

    with pytest.raises(QueueFull):
        publish(app)

    assert redis.Redis.from_url(clean_broker_url).llen("other") == CAPACITY


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(Misuse, match="at least 1"):
        Agent("memory", capacity=capacity)
