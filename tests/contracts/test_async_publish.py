"""`publish.aio`: the asyncio loop goes on, whatever the broker does."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from petiole.events import Event, MessageEvent
from petiole.events.errors import BrokerUnavailable, InvalidEvent, InvalidSchedule, PublishOutcomeUnknown
from petiole.tasks import Agent, EventBus
from petiole.tasks.publishing import threads
from petiole.workers.process import embedded_broker

pytestmark = pytest.mark.processes

BROKER_TIMEOUT_S = 2.0


class Broker:
    """A broker of one's own, and a bus that publishes to it."""

    def __init__(self, home: Path) -> None:
        url = embedded_broker.start_broker(home).url
        self._process_id = int((home / "valkey" / "valkey.pid").read_text())
        self.bus = EventBus(Celery("app", broker=url, set_as_current=False))
        # Less patient than ours, which waits 10 s for an answer.
        self.bus.redis = Redis.from_url(
            url, decode_responses=True, socket_timeout=BROKER_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )

    @contextmanager
    def stalled(self) -> Iterator[None]:
        os.kill(self._process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process_id, signal.SIGCONT)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    yield Broker(tmp_path)
    embedded_broker.stop_broker(tmp_path)


def an_event(name: str = "one") -> MessageEvent:
    return MessageEvent(event_type=f"message.{name}", stream_id="s")


def test_a_stalled_broker_fails_the_call_in_time_while_other_coroutines_run(broker):
    asyncio.run(broker.bus.publish.aio(an_event()))

    async def publish_and_tick() -> tuple[int, float]:
        publishing = asyncio.create_task(broker.bus.publish.aio(an_event()))
        began, ticks = time.monotonic(), 0
        while not publishing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(PublishOutcomeUnknown, match=r"publishing message\.one"):
            await publishing
        return ticks, time.monotonic() - began

    with broker.stalled():
        ticks, seconds = asyncio.run(publish_and_tick())

    # The publish is repeated once, since the connection was lost in it.
    assert BROKER_TIMEOUT_S < seconds < 6 * BROKER_TIMEOUT_S
    assert ticks > 10, "the loop stood still"


def test_a_call_that_finds_no_free_thread_is_refused_and_never_published(broker, monkeypatch):
    monkeypatch.setattr(threads, "STALL_TIMEOUT_S", 0.1)
    asyncio.run(broker.bus.publish.aio(an_event()))
    last = an_event("last")

    async def publish_many_times() -> list[object]:
        blocked = [broker.bus.publish.aio(an_event()) for _ in range(threads.THREADS)]
        return await asyncio.gather(*blocked, broker.bus.publish.aio(last), return_exceptions=True)

    with broker.stalled():
        *blocked, refused = asyncio.run(publish_many_times())

    assert [type(error) for error in blocked] == [PublishOutcomeUnknown] * threads.THREADS
    assert type(refused) is BrokerUnavailable
    assert not asyncio.run(broker.bus.publish.aio(last)).was_repeated


def test_a_cancelled_publish_ends_at_once_and_publishing_again_is_harmless(broker):
    event = an_event()

    async def give_up() -> None:
        publishing = asyncio.create_task(broker.bus.publish.aio(event))
        await asyncio.sleep(0.05)
        publishing.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert time.monotonic() - began < BROKER_TIMEOUT_S / 2

    with broker.stalled():
        asyncio.run(give_up())

    asyncio.run(broker.bus.publish.aio(event))
    assert asyncio.run(broker.bus.publish.aio(event)).was_repeated


def test_a_thousand_concurrent_publishes_share_a_few_threads(broker):
    async def publish_all() -> list[str]:
        events = [an_event() for _ in range(1000)]
        publications = await asyncio.gather(*map(broker.bus.publish.aio, events))
        assert [publication.event.event_id for publication in publications] == [event.event_id for event in events]
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("petiole-aio")]

    assert len(asyncio.run(publish_all())) <= threads.THREADS


def test_what_cannot_be_published_is_refused_to_the_caller():
    async def publish_badly(bus: EventBus) -> None:
        with pytest.raises(InvalidEvent, match="stream_id"):
            await bus.publish.aio({"event_type": "message.one"})
        with pytest.raises(InvalidSchedule):
            await bus.publish.aio(an_event(), delay=-1)

    with EventBus() as bus:
        asyncio.run(publish_badly(bus))


def test_in_a_handler_events_are_held_back_until_it_has_succeeded():
    agent, seen = Agent("agent"), list[str]()

    with EventBus() as bus:

        @agent.on("message.one")
        async def act(_: Event) -> None:
            held = await asyncio.gather(*(bus.publish.aio(an_event("two")) for _ in range(3)))
            assert all(publication.was_buffered for publication in held)
            assert not (await bus.publish.aio(an_event("now"), now=True)).was_buffered
            seen.append("end of handler")

        @agent.on("message.two")
        def note(event: Event) -> None:
            seen.append(event.causation_id or "")

        bus.include(agent)
        cause = an_event()
        asyncio.run(bus.publish.aio(cause))
        bus.wait()

    assert seen == ["end of handler", *[cause.event_id] * 3]


def test_a_delayed_publish_tells_when_it_is_due():
    with EventBus() as bus:
        publication = asyncio.run(bus.publish.aio(an_event(), delay=3600))

    assert publication.due is not None
    assert publication.subscriptions == ()


def test_an_argument_that_delay_does_not_have_is_refused():
    with EventBus() as bus:
        with pytest.raises(TypeError, match="dely"):
            bus.publish.delay(an_event(), dely=5)  # type: ignore[call-arg]  # the point
        with pytest.raises(TypeError, match="dely"):
            bus.publish.apply_async((an_event(),), {"dely": 5})
