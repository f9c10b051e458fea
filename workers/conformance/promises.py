"""The promises of a conformance run, in the order in which they are tried.

Each is a function of a system that returns whether the promise was kept, or None if the system cannot break it. The
first ones publish before a worker runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from petiole.events.catalog.message import MessageEvent
from petiole.events.responses import Response
from petiole.tasks.dead_letters import DeadLetterQuery, replay
from petiole.workers.conformance.agents import agent_names, topic
from petiole.workers.conformance.system import System

IsKept: TypeAlias = bool | None

STREAM = "conformance"
LARGE_BYTES = 300_000
ORDERED = 20


@dataclass(frozen=True, slots=True)
class PromiseResult:
    """A promise, and whether a system kept it; None if it does not apply."""

    promise: str
    is_kept: IsKept


def try_promises(system: System) -> Iterator[PromiseResult]:
    """Try all promises on a system, one after the other."""
    system.prepare()
    publish_without_worker(system)
    system.start_worker()
    for promise, try_promise in PROMISES.items():
        yield PromiseResult(promise, try_promise(system))


def publish_without_worker(system: System) -> None:
    """Publish what waits for the worker; in one process there is a worker as soon as there is a bus."""
    if not system.is_in_process:
        _publish(system, "waiting")
        _publish(system, "expired", expires_at=system.bus.now() + timedelta(milliseconds=1))
        for priority in (0, 0, 9):
            _publish(system, "urgent", priority=priority)


def is_fanned_out(system: System) -> IsKept:
    """Publish to two agents."""
    _publish(system, "fan-out")
    return _records(system, "fan-out", ["one", "two"])


def is_published_once(system: System) -> IsKept:
    """Publish the same event three times, and another one."""
    event = _event("twice")
    for each in (event, event, event, _event("twice")):
        system.bus.publish.run(each)
    return _records(system, "twice", ["one", "one"])


def is_kept_for_a_worker(system: System) -> IsKept:
    """An event was published before a worker ran."""
    return None if system.is_in_process else _records(system, "waiting", ["one"])


def is_expired(system: System) -> IsKept:
    """An event expired before a worker ran; the one that waited with it was handled."""
    return None if system.is_in_process else system.records(topic("expired")) == []


def is_by_priority(system: System) -> IsKept:
    """The most urgent of three waiting events is handled first."""
    if system.is_in_process:
        return None
    urgent = topic("urgent")
    return system.happens(lambda: len(system.records(urgent)) == 3) and system.records(urgent)[0] == "9"  # noqa: PLR2004


def is_filtered(system: System) -> IsKept:
    """Publish an event that the filter leaves out, and one that it lets through."""
    _publish(system, "filtered", content={"parameters": {"vip": False}})
    _publish(system, "filtered", content={"parameters": {"vip": True}})
    return _records(system, "filtered", ["one"])


def is_ordered(system: System) -> IsKept:
    """Publish events of one stream to an ordered handler; a broker beside the state store allows none."""
    if not system.keeps_order:
        return None
    for number in range(ORDERED):
        _publish(system, "ordered", content={"parameters": {"number": number}})
    expected = [str(number) for number in range(ORDERED)]
    return system.happens(lambda: system.records(topic("ordered")) == expected)


def is_answered_by_an_event(system: System) -> IsKept:
    """A handler's event reaches the next handler."""
    _publish(system, "chain")
    return _records(system, "chained", ["two"])


def is_requested(system: System) -> IsKept:
    """Send a request and wait for the reply."""
    reply: Response[int] = system.bus.request(
        "conformance_double", responder=agent_names(system.run)[1], number=21, timeout=20
    ).get()
    return bool(reply.ok) and reply.value == 42  # noqa: PLR2004


def is_late(system: System) -> IsKept:
    """Publish an event with a delay: it is not handled before, and is handled afterwards."""
    due = system.bus.now() + timedelta(seconds=1.5)
    system.bus.publish.run(_event("late"), at=due)
    was_handled = system.happens(lambda: system.records(topic("late")) == ["one"])
    return was_handled and system.bus.now() >= due


def is_large(system: System) -> IsKept:
    """Publish an event whose content does not fit into a message."""
    _publish(system, "large", content={"parameters": {"text": "x" * LARGE_BYTES}})
    return _records(system, "large", ["one"])


def is_tried_again(system: System) -> IsKept:
    """The first attempt of a handler fails."""
    _publish(system, "flaky")
    return _records(system, "flaky", ["2"])


def is_dead_lettered_and_replayed(system: System) -> IsKept:
    """A handler fails in all attempts; its dead letter is replayed once the handler is repaired."""
    _publish(system, "broken")
    letters = system.bus.stores.dead_letters
    if not system.happens(lambda: letters.count() == 1):
        return False
    system.bus.redis.set(f"{system.run}:conformance:records:fixed", 1)
    replay(DeadLetterQuery(), wait=True, timeout=20, operator=STREAM, bus=system.bus)
    return _records(system, "broken", ["fixed"]) and letters.all()[0].attempts is not None


def survives_kill(system: System) -> IsKept:
    """The worker is killed while it handles an event; another one handles it."""
    if system.is_in_process:
        return None
    killed = topic("killed")
    _publish(system, "killed")
    if not system.happens(lambda: system.records(killed) == ["begun"]):
        return False
    system.kill_worker()
    system.start_worker()
    return system.happens(lambda: system.records(killed) == ["begun", "handled"])


PROMISES: dict[str, Callable[[System], IsKept]] = {
    "each subscription gets each event once": is_fanned_out,
    "an event published again is handled once": is_published_once,
    "events wait for a worker": is_kept_for_a_worker,
    "an expired event is not handled": is_expired,
    "urgent events come first": is_by_priority,
    "a filter keeps other events away": is_filtered,
    "the events of a stream come in order": is_ordered,
    "a handler's events are published": is_answered_by_an_event,
    "a request gets its reply": is_requested,
    "a delayed event comes when it is due": is_late,
    "a large content arrives": is_large,
    "a failed attempt is repeated": is_tried_again,
    "a dead letter is stored, and handled after a replay": is_dead_lettered_and_replayed,
    "the event of a killed worker is handled by another": survives_kill,
}


def _event(name: str, **fields: object) -> MessageEvent:
    return MessageEvent.model_validate({"stream_id": STREAM, "event_type": topic(name)} | fields)


def _publish(system: System, name: str, **fields: object) -> None:
    system.bus.publish.run(_event(name, **fields))


def _records(system: System, name: str, expected: list[str]) -> bool:
    """Wait until the handlers of a topic have recorded this, in any order; more than that would break the promise."""
    return system.happens(lambda: sorted(system.records(topic(name))) == expected)
