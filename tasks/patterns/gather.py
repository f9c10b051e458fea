"""Gathering: a handler that waits for several events, and is called once for all of them.

    @shop.gather("message.price", "message.stock", ("message.photo", "message.no_photo"), timeout=2.0)
    def offer(gathered: Gathered) -> MessageEvent: ...

Two subscriptions of the agent do it. One hears the parts, and keeps them (tasks/stores/aggregations.py): in no
worker, so
it does not matter which worker gets which. Once all are there it says `gathering.closed`; until then, it lets the same
event wait for the deadline (waiting.py). The event's id follows from subscription and key, so it is published once,
whichever of the two comes first; a crash in between loses nothing, since each is said in the step that ends a delivery.
The other subscription hears that event, closes the gathering, and calls the function: a delivery like any other, with
its attempts, its dead letter, and its outbox.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar
from uuid import NAMESPACE_OID, uuid5

from pydantic_core import from_json

from petiole.events.catalog.gathering import ClosedGathering, GatheringClosedEvent
from petiole.events.errors import gathering_key_missing
from petiole.events.event import Event
from petiole.events.topics import TopicTrie
from petiole.tasks.handling.buffering import hold
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.validation import checked

Function: TypeAlias = Callable[..., Any]
Part: TypeAlias = str | tuple[str, ...]

CLOSED = "gathering.closed"

AnEvent = TypeVar("AnEvent", bound=Event)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What came of what was waited for: for each part its event, or None, in the order of the decorator."""

    key: str
    parts: tuple[str, ...]
    events: tuple[Event | None, ...]

    @property
    def partial(self) -> bool:
        """The deadline came before some of the parts."""
        return None in self.events

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts that did not come, by their patterns; alternatives as 'a.b|c.d'."""
        return tuple(part for part, event in zip(self.parts, self.events, strict=True) if event is None)

    @property
    def came(self) -> tuple[Event, ...]:
        """The events that came."""
        return tuple(event for event in self.events if event is not None)

    def first(self, kind: type[AnEvent]) -> AnEvent | None:
        """Find the event of that class."""
        return next((event for event in self.events if isinstance(event, kind)), None)


@dataclass(frozen=True, slots=True)
class Gathering:
    """What one handler gathers: its parts, by which field, and how long."""

    subscription: str
    parts: tuple[tuple[str, ...], ...]
    by: str
    timeout: timedelta

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns of all parts."""
        return tuple(dict.fromkeys(pattern for part in self.parts for pattern in part))

    def part_of(self, topic: str) -> int | None:
        """Tell which part a topic is, by number: the first that it matches."""
        return min(_numbers(self.parts).match(topic), default=None)

    def key_of(self, event: Event) -> str:
        """Read what an event is gathered by. Raises Permanent (gathering_key_missing)."""
        place: Any = event.model_dump(mode="json", include={self.by.split(".", maxsplit=1)[0]})
        for word in self.by.split("."):
            place = place.get(word) if isinstance(place, Mapping) else None
        if place is None:
            raise gathering_key_missing(self.subscription, event.event_type, self.by)
        return str(place)

    def closed_id(self, key: str) -> str:
        """Name the event that a gathering is closed by."""
        return str(uuid5(NAMESPACE_OID, repr((self.subscription, key))))


@functools.cache
def _numbers(parts: tuple[tuple[str, ...], ...]) -> TopicTrie[int]:
    numbers: TopicTrie[int] = TopicTrie()
    for number, part in enumerate(parts):
        for pattern in part:
            numbers.add(pattern, number)
    return numbers


def gathering(subscription: str, parts: Sequence[Part], by: str, timeout: timedelta) -> Gathering:
    """Make a gathering; a part is a pattern, or alternatives of which one suffices."""
    alternatives = tuple((part,) if isinstance(part, str) else tuple(part) for part in parts)
    return Gathering(subscription, alternatives, by, timeout)


def collector(what: Gathering, name: str) -> Function:
    """Make the handler that keeps the parts."""

    def collect(event: Event, context: CurrentDelivery) -> Iterator[Event]:
        """Keep a part; close the gathering with the last one, and see that it is closed at the deadline."""
        number, key = what.part_of(event.event_type), what.key_of(event)
        if number is None:
            return
        bus = context.bus
        admitted = checked(bus, event)
        claim_check.store(bus, [admitted])
        stands = bus.stores.gatherings.add(
            what.subscription, key, number, admitted.text, of=len(what.parts), timeout=what.timeout
        )
        if stands != "closed":
            closed = event.caused(
                GatheringClosedEvent,
                event_id=what.closed_id(key),
                priority=event.priority,
                content=ClosedGathering(subscription=what.subscription, key=key),
            )
            if stands == "complete":
                yield closed
            else:
                hold(context, closed, datetime.now(UTC) + what.timeout)

    collect.__name__ = name
    return collect


def caller(what: Gathering, function: Function) -> Function:
    """Make the handler that calls the function with what was gathered."""
    takes_context = len(inspect.signature(function).parameters) > 1

    def arguments(event: GatheringClosedEvent, context: CurrentDelivery) -> tuple[object, ...]:
        found = gathered(what, event.content.key, context)
        return (found, context) if takes_context else (found,)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(event: GatheringClosedEvent, context: CurrentDelivery) -> object:
            return await function(*arguments(event, context))

        return call_async

    @functools.wraps(function)
    def call(event: GatheringClosedEvent, context: CurrentDelivery) -> object:
        return function(*arguments(event, context))

    return call


def gathered(what: Gathering, key: str, context: CurrentDelivery) -> Gathered:
    """Close a gathering, and read its parts: the same in each run. Raises PayloadUnreadable, BrokerUnavailable."""
    bus = context.bus
    texts = bus.stores.gatherings.close(what.subscription, key)

    def read(number: int) -> Event | None:
        if number not in texts:
            return None
        document: Any = claim_check.whole(bus, from_json(texts[number]))
        return bus.event_registry.parse(document)

    names = tuple("|".join(part) for part in what.parts)
    return Gathered(key, names, tuple(read(number) for number in range(len(what.parts))))
