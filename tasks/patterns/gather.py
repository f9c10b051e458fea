"""Gather: a handler that is called once for several events (the aggregator pattern).

    @shop.gather("message.price", "message.stock", ("message.photo", "message.no_photo"), timeout=2.0)
    def offer(gathered: GatheredEvents) -> MessageEvent: ...

The agent has two subscriptions for it:

1. The collector receives the parts and stores them in tasks/stores/aggregations.py, so any worker may receive any part.
   It publishes `aggregation.completed` with the last part, and delayed at the deadline with every other part. The
   event's id is derived from subscription and key, so only the first one counts. Both are published in the call that
   settles the collector's delivery, so a crash loses nothing.
2. The caller receives that event, completes the aggregation and calls the function, in an ordinary delivery with
   attempts, dead letter and outbox.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
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
    """The gathered events: for each part its event, or None, in the order of the decorator."""

    key: str
    parts: tuple[str, ...]
    events: tuple[Event | None, ...]

    @property
    def is_partial(self) -> bool:
        """Whether the deadline passed before all parts arrived."""
        return None in self.events

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts that did not arrive, by their patterns; alternatives as 'a.b|c.d'."""
        return tuple(part for part, event in zip(self.parts, self.events, strict=True) if event is None)

    @property
    def arrived(self) -> tuple[Event, ...]:
        """The events that arrived."""
        return tuple(event for event in self.events if event is not None)

    def first(self, event_class: type[EventT]) -> EventT | None:
        """Return the first event of that class; None if there is none."""
        return next((event for event in self.events if isinstance(event, event_class)), None)


@dataclass(frozen=True, slots=True)
class AggregationRule:
    """The rule of one gathering handler: its parts, the field to correlate by, and the timeout."""

    subscription: str
    parts: tuple[tuple[str, ...], ...]
    by: str
    timeout: timedelta

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns of all parts."""
        return tuple(dict.fromkeys(pattern for part in self.parts for pattern in part))

    def part_of(self, topic: str) -> int | None:
        """Return the number of the first part that a topic matches; None if it matches none."""
        return min(_build_part_trie(self.parts).match(topic), default=None)

    def key_of(self, event: Event) -> str:
        """Return the value of the field that events are gathered by. Raises Permanent (aggregation_key_missing)."""
        value: Any = event.model_dump(mode="json", include={self.by.split(".", maxsplit=1)[0]})
        for name in self.by.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None:
            raise aggregation_key_missing(self.subscription, event.event_type, self.by)
        return str(value)

    def completed_event_id(self, key: str) -> str:
        """Derive the id of the event that completes the aggregation."""
        return str(uuid5(NAMESPACE_OID, repr((self.subscription, key))))


@functools.cache
def _build_part_trie(parts: tuple[tuple[str, ...], ...]) -> TopicTrie[int]:
    numbers: TopicTrie[int] = TopicTrie()
    for number, part in enumerate(parts):
        for pattern in part:
            numbers.add(pattern, number)
    return numbers


def build_rule(subscription: str, parts: Sequence[PartPattern], by: str, timeout: timedelta) -> AggregationRule:
    """Build a rule. A part is a pattern, or a tuple of alternative patterns of which one suffices."""
    alternatives = tuple((part,) if isinstance(part, str) else tuple(part) for part in parts)
    return AggregationRule(subscription, alternatives, by, timeout)


def build_collector(rule: AggregationRule, name: str) -> HandlerFunction:
    """Build the handler that stores the parts."""

    def collect(event: Event, context: CurrentDelivery) -> Iterator[Event]:
        """Store a part; publish the completion with the last part, or delayed until the deadline."""
        number, key = rule.part_of(event.event_type), rule.key_of(event)
        if number is None:
            return
        bus = context.bus
        validated = validate(bus, event)
        claim_check.store_contents(bus, [validated])
        state = bus.stores.aggregations.add(
            rule.subscription, key, number, validated.text, part_count=len(rule.parts), timeout=rule.timeout
        )
        if state != "completed":
            completed = event.caused(
                AggregationCompletedEvent,
                event_id=rule.completed_event_id(key),
                priority=event.priority,
                content=CompletedAggregation(subscription=rule.subscription, key=key),
            )
            if state == "complete":
                yield completed
            else:
                buffer(context, completed, bus.now() + rule.timeout)

    collect.__name__ = name
    return collect


def build_caller(rule: AggregationRule, function: HandlerFunction) -> HandlerFunction:
    """Build the handler that calls the function with the gathered events."""
    takes_context = len(inspect.signature(function).parameters) > 1

    def arguments(event: AggregationCompletedEvent, context: CurrentDelivery) -> tuple[object, ...]:
        gathered = load_gathered(rule, event.content.key, context)
        return (gathered, context) if takes_context else (gathered,)

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
    """Complete an aggregation and load its parts, the same in each attempt.

    Raises PayloadUnreadable, BrokerUnavailable.
    """
    bus = context.bus
    texts = bus.stores.aggregations.complete(rule.subscription, key)

    def read(number: int) -> Event | None:
        if number not in texts:
            return None
        document: Any = claim_check.restore_content(bus, from_json(texts[number]))
        return bus.event_registry.read(document)

    names = tuple("|".join(part) for part in rule.parts)
    return GatheredEvents(key, names, tuple(read(number) for number in range(len(rule.parts))))
