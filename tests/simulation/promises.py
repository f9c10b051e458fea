"""Promises: what must hold at the end of every run, whatever went wrong in it.

    told once       every event that was acknowledged to its publisher stands in the history once, and no event twice
    answered once   every delivery was handled, and said all that its handler says; or it failed as its handler was
                    told to, or was poison, is one dead letter, and the error channel was told once
    in order        of a stream, the ordered handler began and told its events in the order of their publication
    at rest         no queue, no mailbox holds anything

What a publisher that died left behind is whole or not there where publication is one step; step by step it may stop
half-way, which docs/guarantees.md says: such an event is not held against its deliveries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from petiole.events import Event
from petiole.events.ids import emitted_event_id
from tests.simulation.agents import SAYS, began, is_refused
from tests.simulation.world import World

POISONOUS = 3
"""How often a delivery has to be taken before it may be given up as poison."""


class Reading:
    """What a run left behind, read past all faults."""

    def __init__(self, world: World) -> None:
        self.world = world
        bus = world.bus
        self.documents = [dict(each.document) for each in bus.stores.history.read_after(count=100_000)]
        self.events: list[Event] = [bus.event_registry.parse(each) for each in self.documents]
        self.copies = Counter(each.event_id for each in self.events)
        self.place = {each.event_id: number for number, each in enumerate(self.events)}
        letters = bus.stores.dead_letters.all()
        self.letters = Counter(letter.delivery_id for letter in letters)
        self.causes = {letter.delivery_id: f"{letter.cause}: {letter.error}" for letter in letters}
        marks = bus.settings.key_prefix + ":inbox:"
        self.marked = {str(key).removeprefix(marks) for key in world.client.keys(f"{marks}*")}
        table = bus.routing()
        self.deliveries = [
            (event, route.subscription.name, route.delivery_id)
            for event in self.events
            for route in table.routes(event)
        ]

    def is_half_published(self, event: Event) -> bool:
        """Tell whether an event may lack deliveries: its publisher died, and publication is not one step."""
        return not self.world.is_one_step and event.event_id in self.world.tally.abandoned

    def is_poison(self, delivery: str) -> bool:
        """Tell whether a delivery was buried because its workers kept dying."""
        return self.causes.get(delivery, "").startswith("poison") and self.world.tally.taken[delivery] >= POISONOUS

    def is_flaky(self, event: Event, subscription: str) -> bool:
        """Tell whether the handler was told to fail at its first run alone: a letter is as good as an answer."""
        return subscription == "picky.judge" and "flaky" in str(getattr(event.content, "text", ""))

    def was_refused(self, event: Event, subscription: str) -> bool:
        """Tell whether the handler was told to fail."""
        return is_refused(str(getattr(event.content, "text", "")), subscription)


def broken(world: World) -> list[str]:
    """List the promises that a run broke."""
    reading = Reading(world)
    checks = (_told_once, _answered_once, _in_order, _at_rest)
    return [f"{check.__name__.removeprefix('_')}: {each}" for check in checks for each in check(reading)]


def _told_once(reading: Reading) -> Iterator[str]:
    for event_id, count in reading.copies.items():
        if count > 1:
            yield f"event {event_id} stands in the history {count} times"
    for event_id in reading.world.tally.published:
        if event_id not in reading.copies:
            yield f"event {event_id} was acknowledged to its publisher, and is lost"


def _answered_once(reading: Reading) -> Iterator[str]:
    known = {delivery for _, _, delivery in reading.deliveries}
    for stray in set(reading.letters) - known:
        yield f"a dead letter of no delivery: {stray}, {reading.causes[stray]}"
    for event, subscription, delivery in reading.deliveries:
        what = f"{subscription} of {event.event_id} ({event.event_type}), delivery {delivery}"
        said = [number for number in range(SAYS[subscription]) if emitted_event_id(delivery, number) in reading.copies]
        told = reading.copies[emitted_event_id(delivery, -1)]
        letters = reading.letters[delivery]
        if reading.is_half_published(event) and not said and not letters:
            continue
        if reading.is_poison(delivery) and (letters, told, said) == (1, 1, []):
            continue
        if reading.is_flaky(event, subscription) and (letters, told, said) == (1, 1, []):
            continue
        if reading.was_refused(event, subscription):
            if (letters, told, said) != (1, 1, []):
                yield f"{what}: failed; {letters} dead letters, told {told} times, said {said}"
        elif (letters, told, len(said)) != (0, 0, SAYS[subscription]):
            cause = reading.causes.get(delivery, "none")
            yield f"{what}: said {said} of {SAYS[subscription]}; dead letter: {cause}; told {told} times"
        elif delivery not in reading.marked:
            yield f"{what}: not marked as handled"


def _in_order(reading: Reading) -> Iterator[str]:
    if not reading.world.is_one_step:
        return
    told = [event for event in reading.events if event.event_type == "message.told"]
    yield from _late(reading, "told", [(event.stream_id, str(event.causation_id)) for event in told])
    # Where a hold is lost under a working worker, a run may begin late; what it says is dropped, and not told late.
    if not reading.world.lost_holds:
        yield from _late(reading, "begun", began)


def _late(reading: Reading, what: str, steps: Sequence[tuple[str, str]]) -> Iterator[str]:
    last: dict[str, int] = {}
    for stream, event_id in steps:
        place = reading.place[event_id]
        if place < last.get(stream, -1):
            yield f"{stream}: {event_id} was {what} after a later event"
        last[stream] = max(place, last.get(stream, -1))


def _at_rest(reading: Reading) -> Iterator[str]:
    world = reading.world
    if not world.broker.is_empty():
        yield "the queues are not empty"
    prefix = world.bus.settings.key_prefix
    counts: Any = world.client.hgetall(f"{prefix}:message_groups")
    yield from (f"{queue!r} counts {count!r} in mailboxes" for queue, count in counts.items() if count != "0")
    yield from (
        f"left behind: {key!r}" for key in world.client.scan_iter(match=f"{prefix}:message_groups:*", count=10_000)
    )
