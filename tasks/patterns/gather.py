"""Gathering: a handler that waits for several events, and is called once for all of them.

    @shop.gather("message.price", "message.stock", ("message.photo", "message.no_photo"), timeout=2.0)
    def offer(gathered: Gathered) -> MessageEvent: ...

Two subscriptions of the agent do it. One hears the parts, and keeps them (tasks/stores/aggregations.py): in no
worker, so
it does not matter which worker gets which. Once all are there it says `aggregation.completed`; until then, it lets the same
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

from petiole.events.catalog.aggregation import AggregationCompletedEvent, CompletedAggregation
from petiole.events.errors import aggregation_key_missing
from petiole.events.event import Event
from petiole.events.topics import TopicTrie
from petiole.tasks.handling.buffering import buffer
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.validation import validate

HandlerFunction: TypeAlias = Callable[..., Any]
PartPattern: TypeAlias = str | tuple[str, ...]

COMPLETED_EVENT_TYPE = "aggregation.completed"

EventT = TypeVar("EventT", bound=Event)


@dataclass(frozen=True, slots=True)
class GatheredEvents:
    """What came of what was waited for: for each part its event, or None, in the order of the decorator."""

    key: str
    parts: tuple[str, ...]
    events: tuple[Event | None, ...]

    @property
    def is_partial(self) -> bool:
        """The deadline came before some of the parts."""
        return None in self.events

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts that did not come, by their patterns; alternatives as 'a.b|c.d'."""
        return tuple(part for part, event in zip(self.parts, self.events, strict=True) if event is None)

    @property
    def arrived(self) -> tuple[Event, ...]:
        """The events that came."""
        return tuple(event for event in self.events if event is not None)

    def first(self, event_class: type[EventT]) -> EventT | None:
        """Find the event of that class."""
        return next((event for event in self.events if isinstance(event, event_class)), None)


@dataclass(frozen=True, slots=True)
class AggregationRule:
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
        return min(_build_part_trie(self.parts).match(topic), default=None)

    def key_of(self, event: Event) -> str:
        """Read what an event is gathered by. Raises Permanent (aggregation_key_missing)."""
        place: Any = event.model_dump(mode="json", include={self.by.split(".", maxsplit=1)[0]})
        for word in self.by.split("."):
            place = place.get(word) if isinstance(place, Mapping) else None
        if place is None:
            raise aggregation_key_missing(self.subscription, event.event_type, self.by)
        return str(place)

    def completed_event_id(self, key: str) -> str:
        """Name the event that a gathering is closed by."""
        return str(uuid5(NAMESPACE_OID, repr((self.subscription, key))))


@functools.cache
def _build_part_trie(parts: tuple[tuple[str, ...], ...]) -> TopicTrie[int]:
    numbers: TopicTrie[int] = TopicTrie()
    for number, part in enumerate(parts):
        for pattern in part:
            numbers.add(pattern, number)
    return numbers


def build_rule(subscription: str, parts: Sequence[PartPattern], by: str, timeout: timedelta) -> AggregationRule:
    """Make a gathering; a part is a pattern, or alternatives of which one suffices."""
    alternatives = tuple((part,) if isinstance(part, str) else tuple(part) for part in parts)
    return AggregationRule(subscription, alternatives, by, timeout)


def build_collector(rule: AggregationRule, name: str) -> HandlerFunction:
    """Make the handler that keeps the parts."""

    def collect(event: Event, context: CurrentDelivery) -> Iterator[Event]:
        """Keep a part; close the gathering with the last one, and see that it is closed at the deadline."""
        number, key = rule.part_of(event.event_type), rule.key_of(event)
        if number is None:
            return
        bus = context.bus
        admitted = validate(bus, event)
        claim_check.store_contents(bus, [admitted])
        stands = bus.stores.aggregations.add(
            rule.subscription, key, number, admitted.text, part_count=len(rule.parts), timeout=rule.timeout
        )
        if stands != "completed":
            closed = event.caused(
                AggregationCompletedEvent,
                event_id=rule.completed_event_id(key),
                priority=event.priority,
                content=CompletedAggregation(subscription=rule.subscription, key=key),
            )
            if stands == "complete":
                yield closed
            else:
                buffer(context, closed, datetime.now(UTC) + rule.timeout)

    collect.__name__ = name
    return collect


def build_caller(rule: AggregationRule, function: HandlerFunction) -> HandlerFunction:
    """Make the handler that calls the function with what was gathered."""
    takes_context = len(inspect.signature(function).parameters) > 1

    def arguments(event: AggregationCompletedEvent, context: CurrentDelivery) -> tuple[object, ...]:
        found = load_gathered(rule, event.content.key, context)
        return (found, context) if takes_context else (found,)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(event: AggregationCompletedEvent, context: CurrentDelivery) -> object:
            return await function(*arguments(event, context))

        return call_async

    @functools.wraps(function)
    def call(event: AggregationCompletedEvent, context: CurrentDelivery) -> object:
        return function(*arguments(event, context))

    return call


def load_gathered(rule: AggregationRule, key: str, context: CurrentDelivery) -> GatheredEvents:
    """Close a gathering, and read its parts: the same in each run. Raises PayloadUnreadable, BrokerUnavailable."""
    bus = context.bus
    texts = bus.stores.aggregations.complete(rule.subscription, key)

    def read(number: int) -> Event | None:
        if number not in texts:
            return None
        document: Any = claim_check.restore_content(bus, from_json(texts[number]))
        return bus.event_registry.parse(document)

    names = tuple("|".join(part) for part in rule.parts)
    return GatheredEvents(key, names, tuple(read(number) for number in range(len(rule.parts))))
