"""History replay: an operator has events of the history delivered again to one subscription.

    replay_history("memory.remember", stream="a-conversation")
    replay_history("memory.remember", since=yesterday, pattern="input.*", replay_id="after-the-fix")

- The subscription gets the selected events that match it; no other subscription gets any.
- Delivery ids are derived from event, subscription and replay id. So the inbox does not skip them as duplicates of the
  original deliveries, and a replay repeated under one id delivers nothing twice within PETIOLE_INBOX_RETENTION_S.
- The handler runs as usual, with `context.is_replay`. Its events are published under ids derived from the delivery.
- Expired events are delivered too.
- Deliveries go to the end of the queue, in the order of the history, regardless of its capacity.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from uuid import uuid4

from kombu import Producer
from kombu.exceptions import OperationalError
from pydantic import Field

from petiole.events.arguments import checks_arguments
from petiole.events.content import Text
from petiole.events.errors import BrokerUnavailable, PayloadUnreadable, UsageError, unknown_subscription
from petiole.events.event import Event
from petiole.events.ids import StreamId, replayed_delivery_id
from petiole.events.subscriptions import Subscription
from petiole.events.topics import TopicTrie
from petiole.tasks.broker.topology import DUE_HEADER, broker_priority, queue_declaration
from petiole.tasks.handling.current import current_bus
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.deliveries import REPLAY_HEADER
from petiole.tasks.stores.history import HistoryQuery, RecordedEvent


@dataclass(frozen=True, slots=True)
class HistoryReplay:
    """Result of a replay: its id, to repeat it, the deliveries sent, and the ids of unreadable events."""

    id: str
    subscription: str
    sent: int
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplayEvents:
    """The selected events that match a subscription. Each iteration reads the history again.

    `unreadable` holds the ids of events that the last iteration could not read: their type is unknown in this process,
    or their content is missing.
    """

    bus: BusRuntime
    subscription: Subscription
    selection: HistoryQuery
    unreadable: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[RecordedEvent, Event]]:
        self.unreadable.clear()
        table = RoutingTable([self.subscription])
        topics: TopicTrie[str] = TopicTrie()
        for pattern in self.subscription.patterns:
            topics.add(pattern, pattern)
        for recorded in self.bus.stores.history.select(self.selection):
            # Matched first, because an event of another type may be unreadable in this process.
            event = self._read(recorded) if topics.match(recorded.topic) else None
            if event is not None and table.routes(event):
                yield recorded, event

    def _read(self, recorded: RecordedEvent) -> Event | None:
        try:
            return self.bus.event_registry.read(recorded.document)
        except (UsageError, PayloadUnreadable):
            self.unreadable.append(str(recorded.attributes["event_id"]))
            return None


def select_events(bus: BusRuntime, subscription: str, selection: HistoryQuery) -> ReplayEvents:
    """Return the events that a replay would deliver. Raises UsageError (unknown_subscription)."""
    _, subscriptions = bus.stores.directory.read()
    by_name = {known.name: known for known in subscriptions}
    if subscription not in by_name:
        nearest = difflib.get_close_matches(subscription, by_name, n=1)
        raise unknown_subscription(subscription, nearest[0] if nearest else None)
    return ReplayEvents(bus, by_name[subscription], selection)


@checks_arguments(
    subscription=Text,
    stream=StreamId | None,
    correlation=Text | None,
    since=datetime | None,
    until=datetime | None,
    replay_id=Text | None,
    rate_hz=Annotated[float, Field(gt=0)] | None,
)
def replay_history(
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
) -> HistoryReplay:
    """Deliver events of the history again to one subscription, at most `rate_hz` per second.

    An argument that is None does not restrict. `until` is excluded, and so are events recorded after the call. Safe to
    repeat under one `replay_id`.

    Raises: UsageError (unknown_subscription, invalid_pattern, a time without a zone), BrokerUnavailable.
    """
    bus = current_bus(bus)
    selection = HistoryQuery(stream, correlation, pattern, since, until)
    with bus.state_store_access(f"replaying to {subscription}"):
        return send_deliveries(select_events(bus, subscription, selection), replay_id or str(uuid4()), rate_hz=rate_hz)


def send_deliveries(
    events: ReplayEvents, replay_id: str, *, rate_hz: float | None = None, on_sent: Callable[[], object] = lambda: None
) -> HistoryReplay:
    """Send the deliveries of a replay and call `on_sent` after each. Raises BrokerUnavailable."""
    name, sent = events.subscription.name, 0
    events.bus.require_broker()
    try:
        with events.bus.app.producer_or_acquire() as producer:
            for recorded, event in _throttle(events, rate_hz):
                _send(events, recorded, event, replay_id, producer)
                sent += 1
                on_sent()
    except OperationalError as error:
        raise BrokerUnavailable(f"replaying to {name}, after {sent} deliveries") from error
    return HistoryReplay(replay_id, name, sent, tuple(events.unreadable))


def _send(events: ReplayEvents, recorded: RecordedEvent, event: Event, replay_id: str, producer: Producer) -> None:
    subscription = events.subscription
    events.bus.app.send_task(
        subscription.name,
        args=(recorded.attributes,),
        task_id=replayed_delivery_id(event.event_id, subscription.name, replay_id),
        queue=queue_declaration(subscription.queue, events.bus.driver),  # type: ignore[arg-type]  # as Celery takes
        serializer="json",
        priority=broker_priority(event.priority, events.bus.driver),
        headers={REPLAY_HEADER: replay_id, DUE_HEADER: events.bus.now().isoformat()},
        producer=producer,
        ignore_result=True,
        argsrepr=event.event_type,
        kwargsrepr="",
    )


def _throttle(events: ReplayEvents, rate_hz: float | None) -> Iterator[tuple[RecordedEvent, Event]]:
    began = time.monotonic()
    for number, pair in enumerate(events):
        if rate_hz is not None:
            time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
        yield pair
