"""STATION 5, replay: events of the history are delivered again, to one subscription, on an operator's word.

    replay("memory.remember", stream="a-conversation")
    replay("memory.remember", since=yesterday, pattern="input.*", replay_id="after-the-fix")

Of the events that are asked for, the subscription gets those it hears, and no other subscription gets any. The
deliveries have ids of their own, from event, subscription and the replay's id: the inbox does not take them for those
of then, and a replay that is repeated under one id delivers nothing twice (as long as the inbox remembers,
PETIOLE_INBOX_RETENTION_S). The handler runs as ever, with `context.is_replay`; what it says is published, under ids
that follow from the replayed delivery. Events that have expired meanwhile are delivered
too: the operator knows that they are old.

The deliveries go to the end of the subscription's queue, in the order of the history, whatever its capacity.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from kombu import Producer
from kombu.exceptions import OperationalError

from petiole.events.errors import BrokerUnavailable, PayloadUnreadable, UsageError, unknown_subscription
from petiole.events.event import Event
from petiole.events.ids import replayed_delivery_id
from petiole.events.subscriptions import Subscription
from petiole.events.topics import TopicTrie
from petiole.tasks.broker.messages import REPLAY_HEADER
from petiole.tasks.broker.topology import broker_priority
from petiole.tasks.handling.current import current_bus
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import Recorded, Selection


@dataclass(frozen=True, slots=True)
class Replay:
    """What was replayed: the id to repeat it under, how many deliveries were sent, and the ids of unreadable events."""

    id: str
    subscription: str
    sent: int
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """What a subscription hears of a selection of the history, read as it is iterated over; each time anew.

    `unreadable` holds the ids of events that the last iteration came across and could not read: of a type that this
    process does not know, or with a content that is gone.
    """

    bus: BusRuntime
    subscription: Subscription
    selection: Selection
    unreadable: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Recorded, Event]]:
        self.unreadable.clear()
        table = RoutingTable([self.subscription])
        topics: TopicTrie[str] = TopicTrie()
        for pattern in self.subscription.patterns:
            topics.add(pattern, pattern)
        for recorded in self.bus.stores.history.select(self.selection):
            # Asked first: what it does not hear need not be readable here.
            event = self._read(recorded) if topics.match(recorded.topic) else None
            if event is not None and table.routes(event):
                yield recorded, event

    def _read(self, recorded: Recorded) -> Event | None:
        try:
            return self.bus.event_registry.parse(recorded.document)
        except (UsageError, PayloadUnreadable):
            self.unreadable.append(str(recorded.attributes["event_id"]))
            return None


def heard(bus: BusRuntime, subscription: str, selection: Selection) -> Heard:
    """Find what a replay would deliver. Raises UsageError (unknown_subscription)."""
    _, subscriptions = bus.stores.directory.read()
    by_name = {each.name: each for each in subscriptions}
    if subscription not in by_name:
        nearest = difflib.get_close_matches(subscription, by_name, n=1)
        raise unknown_subscription(subscription, nearest[0] if nearest else None)
    return Heard(bus, by_name[subscription], selection)


def replay(
    subscription: str,
    *,
    stream: str | None = None,
    correlation: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    pattern: str | None = None,
    replay_id: str | None = None,
    rate_hz: float | None = None,
    bus: BusRuntime | None = None,
) -> Replay:
    """Deliver events of the history again to one subscription, at most `rate_hz` of them in a second.

    What is not given does not limit; `until` is the first moment beyond, and what is recorded after the call is left
    out. Safe to repeat under one `replay_id`. Raises: UsageError (unknown_subscription, invalid_pattern), UsageError
    for a time without a zone, BrokerUnavailable.
    """
    bus = current_bus(bus)
    selection = Selection(stream, correlation, pattern, since, until)
    with bus.state_store_access(f"replaying to {subscription}"):
        return send(heard(bus, subscription, selection), replay_id or str(uuid4()), rate_hz=rate_hz)


def send(
    events: Heard, replay_id: str, *, rate_hz: float | None = None, on_sent: Callable[[], object] = lambda: None
) -> Replay:
    """Send the deliveries of a replay, calling `on_sent` after each. Raises BrokerUnavailable."""
    name, sent = events.subscription.name, 0
    events.bus.require_broker()
    try:
        with events.bus.app.producer_or_acquire() as producer:
            for recorded, event in _paced(events, rate_hz):
                _send(events, recorded, event, replay_id, producer)
                sent += 1
                on_sent()
    except OperationalError as error:
        raise BrokerUnavailable(f"replaying to {name}, after {sent} deliveries") from error
    return Replay(replay_id, name, sent, tuple(events.unreadable))


def _send(events: Heard, recorded: Recorded, event: Event, replay_id: str, producer: Producer) -> None:
    subscription = events.subscription
    events.bus.app.send_task(
        subscription.name,
        args=(recorded.attributes,),
        task_id=replayed_delivery_id(event.event_id, subscription.name, replay_id),
        queue=subscription.queue,
        priority=broker_priority(event.priority, events.bus.driver),
        headers={REPLAY_HEADER: replay_id},
        producer=producer,
        ignore_result=True,
        argsrepr=event.event_type,
        kwargsrepr="",
    )


def _paced(events: Heard, rate_hz: float | None) -> Iterator[tuple[Recorded, Event]]:
    began = time.monotonic()
    for number, each in enumerate(events):
        if rate_hz is not None:
            time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
        yield each
