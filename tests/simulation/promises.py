"""Promises: what must hold at the end of every run, whatever went wrong in it. What holds after every step: census.py.

told once       every event that was acknowledged to its publisher stands in the history once, and no event twice
answered once   every delivery ended once: it was handled, and said all that its handler says; or it failed as its
                handler was told to, or was poison, is one dead letter, and the error channel was told once; or its
                queue had no room, and its drop is counted
poison          only deliveries that ran while their processes were lost are poison, and those that crash every
                process run no more often than is configured
letters         the state of each dead letter is the outcome of its last delivery
in order        of a stream, the ordered handler began and told its events in the order of their publication
nothing left    of consumers, references and message groups nothing is left
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from petiole.events.ids import delivery_ids, emitted_event_id, letter_delivery_id, replayed_delivery_id
from petiole.tasks.stores.dead_letters import DeadLetterRecord
from tests.simulation.agents import SAYS, stage
from tests.simulation.machine import MAX_CRASHES
from tests.simulation.world import World

DROPS = {"narrow.squeeze"}
"""Subscriptions whose queue drops the oldest delivery when it is full."""


class Reading:
    """What a run left behind, read past all faults."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events = world.events
        self.copies = Counter(each.event_id for each in self.events)
        self.place = {each.event_id: number for number, each in enumerate(self.events)}
        self.letters = {record.letter.id: record for record in world.bus.stores.dead_letters.iterate()}
        table = world.bus.routing()
        self.deliveries = [
            (event, route.subscription.name, route.delivery_id)
            for event in self.events
            for route in table.routes(event)
        ]

    def said(self, delivery: str, subscription: str) -> list[int]:
        """List the numbers of the events that a delivery said."""
        return [number for number in range(SAYS[subscription]) if emitted_event_id(delivery, number) in self.copies]

    def replays(self, record: DeadLetterRecord) -> list[str]:
        """List the ids of a letter's replays."""
        return [letter_delivery_id(record.letter.id, number) for number in range(1, record.replays + 1)]


def broken(world: World) -> list[str]:
    """List the promises that a run broke."""
    reading = Reading(world)
    checks = (_told_once, _ended_once, _answered_once, _replayed_once, _poison, _letters, _in_order, _nothing_left)
    return [f"{check.__name__.removeprefix('_')}: {each}" for check in checks for each in check(reading)]


def _told_once(reading: Reading) -> Iterator[str]:
    for event_id, count in reading.copies.items():
        if count > 1:
            yield f"event {event_id} stands in the history {count} times"
    for event_id in reading.world.tally.published:
        if event_id not in reading.copies:
            yield f"event {event_id} was acknowledged to its publisher, and is lost"


def _ended_once(reading: Reading) -> Iterator[str]:
    for delivery, ends in reading.world.ends.items():
        if len(ends) > 1:
            yield f"delivery {delivery} ended {len(ends)} times: {ends}"


def _answered_once(reading: Reading) -> Iterator[str]:
    known = {delivery for _, _, delivery in reading.deliveries}
    known |= {delivery for record in reading.letters.values() for delivery in reading.replays(record)}
    missing: Counter[str] = Counter()
    for event, subscription, delivery in reading.deliveries:
        what = f"{subscription} of {event.event_id} ({event.event_type}), delivery {delivery}"
        said, record = reading.said(delivery, subscription), reading.letters.get(delivery)
        told = reading.copies[emitted_event_id(delivery, -1)]
        if record is not None and (told, said) == (1, []):
            continue
        is_whole = len(said) == SAYS[subscription] and bool(said or reading.world.done[delivery])
        if record is None and told == 0 and is_whole:
            continue
        if record is None and told == 0 and not said and subscription in DROPS:
            missing[subscription] += 1
            continue
        yield f"{what}: said {said} of {SAYS[subscription]}; dead letter: {record}; told {told} times"
    dropped = int(reading.world.bus.stores.counters.all().get("dropped_oldest:narrow", 0))
    if missing.total() != dropped:
        yield f"{missing.total()} deliveries are missing, {dropped} were dropped"


def _replayed_once(reading: Reading) -> Iterator[str]:
    inputs = [event.event_id for event in reading.events if event.event_type.startswith("input.")]
    for replay_id, sent in reading.world.sent.items():
        deliveries = [replayed_delivery_id(event_id, "plain.note", replay_id) for event_id in inputs]
        answered = [each for each in deliveries if reading.said(each, "plain.note") or each in reading.letters]
        if len(answered) < sent:
            yield f"replay {replay_id} sent {sent}, of which {len(answered)} were answered"


def _poison(reading: Reading) -> Iterator[str]:
    for record in reading.letters.values():
        letter = record.letter
        last = reading.replays(record)[-1:] or [letter.delivery_id]
        losses = max(reading.world.losses[delivery] for delivery in [letter.delivery_id, *last])
        if letter.cause == "poison" and losses < MAX_CRASHES:
            yield f"{letter.subscription} {letter.id} is poison, and ran {losses} times while its process was lost"
    for (delivery, what), count in stage.runs.items():
        if what == "crash" and count > MAX_CRASHES + 1:
            yield f"delivery {delivery} crashed {count} processes"


def _letters(reading: Reading) -> Iterator[str]:
    for letter_id, record in reading.letters.items():
        deliveries = [record.letter.delivery_id, *reading.replays(record)]
        if record.state == "replaying":
            yield f"letter {letter_id} is being replayed for ever"
        (outcome, *_), *_ = reading.world.ends.get(deliveries[-1], [("nothing", "", "")])
        expected = {"handled": "resolved", "dead_lettered": "failed_again" if record.replays else "pending"}
        if record.state != expected.get(outcome):
            yield f"letter {letter_id} is {record.state} after {record.replays} replays; the last ended {outcome}"


def _in_order(reading: Reading) -> Iterator[str]:
    first = {delivery_ids(event.event_id, ["ordered.tell"])[0]: event for event in reading.events}
    told = [
        (cause.stream_id, cause.event_id)
        for event in reading.events
        for delivery, cause in first.items()
        if event.event_id == emitted_event_id(delivery, 0)
    ]
    yield from _late(reading, "told", told)
    yield from _late(reading, "begun", reading.world.began)


def _late(reading: Reading, what: str, steps: Sequence[tuple[str, str]]) -> Iterator[str]:
    last: dict[str, int] = {}
    for stream, event_id in steps:
        place = reading.place[event_id]
        if place < last.get(stream, -1):
            yield f"{stream}: {event_id} was {what} after a later event"
        last[stream] = max(place, last.get(stream, -1))


def _nothing_left(reading: Reading) -> Iterator[str]:
    client, prefix = reading.world.client, reading.world.keys.prefix
    kinds = ("consumers", "consumers:*", "history:references", "history:kept", "attempts:*")
    for kind in (*kinds, "message_groups:*", "active_message_groups"):
        for name in client.scan_iter(f"{prefix}:{kind}", count=10_000):
            # A process that was cut off while it ended its wait leaves the key to its expiry.
            if not (name.endswith(":wakeup") and client.ttl(name) > 0):
                yield f"left behind: {name}"
