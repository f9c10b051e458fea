"""Delivery trace: for each event of a flow, who got it, and what came of each delivery.

Routes are those of the current subscriptions that were announced before the event; of a later one a delivery is shown
if anything is known of it. An open delivery is read where it stands, with its failed attempts, and so is a dead letter.
Of a delivery that was handled, the events are known that its handler published, because their ids derive from the
delivery's, and with them when the handler began. Waits between attempts are recorded, and the ends of deliveries that
were not handled (tasks/stores/delivery_waits.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from petiole.events.dead_letter import FailedAttempt
from petiole.events.errors import UsageError
from petiole.events.ids import emitted_event_id
from petiole.events.registry import UNREADABLE_HERE
from petiole.tasks.settlement.settlement import read_attempts
from petiole.tasks.stores.delivery_waits import MAX_WAITS, DeliveryEnd, DeliveryWait, WaitReason

if TYPE_CHECKING:
    from petiole.events.event import Event
    from petiole.tasks.routing.table import Route
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores.dead_letters import DeadLetterRecord
    from petiole.tasks.stores.history import RecordedEvent
    from petiole.tasks.stores.open_deliveries import OpenDelivery

DeliveryState = Literal[
    "queued",
    "leased",
    "retrying",
    "deferred",
    "grouped",
    "parked",
    "handled",
    "expired",
    "aborted",
    "ended",
    "dead_lettered",
    "unknown",
]
"""What came of a delivery.

    queued          it waits in its queue
    leased          a worker has fetched it: its handler runs or is next
    retrying        an attempt failed, and the next is due at `due_ms`
    deferred        it was put off without using an attempt, to `due_ms`
    grouped         it waits for earlier deliveries of its message group
    parked          it waits for a worker that has its handler or event type
    handled         its handler ended, and published `events`
    expired         its event had expired before its handler ran
    aborted         its flow was aborted for its agent, or cancelled
    ended           it was handled, or its queue, which drops the oldest deliveries when it is full, dropped it
    dead_lettered   it was given up; `letter` is the state of its dead letter, if that has not been deleted
    unknown         the broker does not show what waits in its queues
"""


@dataclass(frozen=True, slots=True)
class TracedDelivery:
    """A delivery of an event to a subscription. Times are in ms since 1970, by the server's clock."""

    subscription: str
    delivery_id: str
    state: DeliveryState
    attempts: tuple[FailedAttempt, ...] = ()
    crashes: int = 0
    events: int = 0
    ended_at_ms: int | None = None
    due_ms: int | None = None
    error: str | None = None
    letter: str | None = None
    began_ms: int | None = None
    waits: tuple[DeliveryWait, ...] = ()


PhaseKind = Literal["queue", "handler"] | WaitReason | DeliveryEnd


@dataclass(frozen=True, slots=True)
class Phase:
    """What a delivery did from one time to another, in ms since 1970; `until_ms` is None for what goes on.

    `queue` is a wait for a worker, `handler` an attempt; the others are waits for another attempt.
    """

    kind: PhaseKind
    from_ms: int
    until_ms: int | None
    subject: str = ""
    error: str = ""


def list_phases(delivery: TracedDelivery, recorded_at_ms: int) -> Iterator[Phase]:
    """List the known phases of a delivery of an event that was recorded at that time, in order."""
    since_ms: int | None = recorded_at_ms
    if len(delivery.waits) >= MAX_WAITS:  # earlier waits were forgotten
        since_ms = None
    for wait in delivery.waits:
        at_ms = max(wait.at_ms, since_ms or 0)
        if wait.began_ms is not None:
            yield from _handler_phases(since_ms, wait.began_ms, at_ms, wait.error)
        goes_on = delivery.state in {"retrying", "deferred"} and wait is delivery.waits[-1]
        yield Phase(wait.reason, at_ms, None if goes_on else max(at_ms, wait.due_ms), wait.subject, wait.error)
        since_ms = wait.due_ms
    if delivery.began_ms is not None and delivery.ended_at_ms is not None:
        yield from _handler_phases(since_ms, delivery.began_ms, delivery.ended_at_ms)
    elif delivery.state in {"queued", "grouped", "parked"} and since_ms is not None:
        yield Phase("queue", since_ms, None)


def _handler_phases(since_ms: int | None, began_ms: int, ended_ms: int, error: str = "") -> Iterator[Phase]:
    # A worker knows the server's time to some ms only, so a handler may seem to begin before it was due.
    began_ms = max(began_ms, since_ms or 0)
    if since_ms is not None:
        yield Phase("queue", since_ms, began_ms)
    yield Phase("handler", began_ms, max(began_ms, ended_ms), error=error)


def trace_deliveries(bus: BusRuntime, flow: Sequence[RecordedEvent]) -> dict[str, tuple[TracedDelivery, ...]]:
    """Return the deliveries of each event of a flow, by event id, ordered by subscription."""
    table = bus.read_routing()
    routes = {str(each.attributes["event_id"]): table.routes(_read_event(bus, each)) for each in flow}
    ids = [route.delivery_id for found in routes.values() for route in found]
    letters = {record.letter.delivery_id: record for record in bus.stores.dead_letters.read(ids)} if ids else {}
    published = _published_by(flow, routes)
    waiting = _read_open(bus, flow, routes) if bus.publishes_atomically else {}
    waits = bus.stores.delivery_waits.read(ids) if ids else {}
    recorded_ms = {str(each.attributes["event_id"]): each.recorded_at_ms for each in flow}
    announced_ms = bus.stores.directory.announced_ms()
    traced = {
        event_id: [
            _add_waits(_trace(bus, route, letters, published, waiting), waits.get(route.delivery_id, ()))
            for route in found
        ]
        for event_id, found in routes.items()
    }
    return {
        event_id: tuple(
            each for each in found if announced_ms.get(each.subscription, 0) <= recorded_ms[event_id] or _is_known(each)
        )
        for event_id, found in traced.items()
    }


def _is_known(delivery: TracedDelivery) -> bool:
    """Return whether anything tells that there is or was a delivery."""
    is_open = delivery.state not in {"handled", "ended", "unknown"}
    return is_open or bool(delivery.events or delivery.waits or delivery.ended_at_ms)


def _add_waits(delivery: TracedDelivery, waits: tuple[DeliveryWait, ...]) -> TracedDelivery:
    """Add the waits of a delivery, its end if that was recorded, and the failed attempts of one that is not open."""
    match waits:
        case (*_, DeliveryWait(reason="expired" | "aborted" | "dead_lettered" as end, at_ms=at_ms)):
            waits = waits[:-1]
            if delivery.state in {"handled", "ended", "unknown"} and not delivery.events:
                delivery = replace(delivery, state=end, ended_at_ms=at_ms)
    if delivery.attempts or not waits:
        return replace(delivery, waits=waits)
    attempts = (
        FailedAttempt(
            at=datetime.fromtimestamp(wait.at_ms / 1_000, UTC),
            worker=wait.worker,
            error_type=wait.error_type,
            error=wait.error,
        )
        for wait in waits
        if wait.reason == "retry"
    )
    return replace(delivery, waits=waits, attempts=tuple(attempts))


def _read_event(bus: BusRuntime, recorded: RecordedEvent) -> Event:
    document = recorded.document_or_stub
    try:
        return bus.event_registry.read(document)
    except UsageError as error:
        if error.code not in UNREADABLE_HERE:
            raise
        return bus.event_registry.read_unknown(document)


def _published_by(
    flow: Sequence[RecordedEvent], routes: Mapping[str, Sequence[Route]]
) -> Mapping[str, Sequence[RecordedEvent]]:
    """Group the events of a flow by the delivery whose handler published them."""
    caused: defaultdict[str, list[RecordedEvent]] = defaultdict(list)
    for recorded in flow:
        caused[str(recorded.attributes.get("causation_id"))].append(recorded)
    published: dict[str, list[RecordedEvent]] = {}
    for event_id, found in routes.items():
        for route in found if caused[event_id] else ():
            own = {emitted_event_id(route.delivery_id, index) for index in range(len(caused[event_id]))}
            events = [each for each in caused[event_id] if each.attributes["event_id"] in own]
            published[route.delivery_id] = events
    return published


def _read_open(
    bus: BusRuntime, flow: Sequence[RecordedEvent], routes: Mapping[str, Sequence[Route]]
) -> dict[tuple[str, str], OpenDelivery]:
    """Read the open deliveries of a flow, by event id and subscription."""
    event_ids = {each.entry_id: str(each.attributes["event_id"]) for each in flow}
    queues = sorted({route.subscription.queue for found in routes.values() for route in found})
    found = bus.stores.open_deliveries.find(event_ids, queues)
    return {(event_ids[each.history_entry], each.entry.subscription): each for each in found}


def _trace(
    bus: BusRuntime,
    route: Route,
    letters: Mapping[str, DeadLetterRecord],
    published: Mapping[str, Sequence[RecordedEvent]],
    waiting: Mapping[tuple[str, str], OpenDelivery],
) -> TracedDelivery:
    name, delivery_id = route.name, route.delivery_id
    if (delivery := waiting.get((route.event_id, name))) is not None:
        return _trace_open(name, delivery_id, delivery)
    if (record := letters.get(delivery_id)) is not None:
        letter = record.letter
        return TracedDelivery(
            name,
            delivery_id,
            "dead_lettered",
            attempts=letter.attempts,
            ended_at_ms=letter.dead_lettered_at_ms,
            error=f"{letter.error_type}: {letter.error}",
            letter=record.state,
        )
    if events := published.get(delivery_id):
        # Events that the handler delayed are published later, by another process.
        committed = [each for each in events if each.began_ms is not None] or events
        ended_at_ms, began_ms = max(each.recorded_at_ms for each in committed), committed[0].began_ms
        return TracedDelivery(
            name, delivery_id, "handled", events=len(events), ended_at_ms=ended_at_ms, began_ms=began_ms
        )
    if not bus.publishes_atomically:
        return _trace_message(bus, route)
    may_be_dropped = route.subscription.capacity is not None and route.subscription.overflow == "drop_oldest"
    return TracedDelivery(name, delivery_id, "ended" if may_be_dropped else "handled")


def _trace_open(name: str, delivery_id: str, delivery: OpenDelivery) -> TracedDelivery:
    attempts = read_attempts(delivery.entry)
    place = delivery.place
    state: DeliveryState = place if place != "delayed" else "retrying" if attempts else "deferred"
    crashes = delivery.entry.crashes or 0
    return TracedDelivery(name, delivery_id, state, attempts=attempts, crashes=crashes, due_ms=delivery.due_ms)


def _trace_message(bus: BusRuntime, route: Route) -> TracedDelivery:
    """Trace a delivery on another broker by what the state store knows of it."""
    name, delivery_id, stores = route.name, route.delivery_id, bus.stores
    if stores.inbox.is_handled(delivery_id):
        return TracedDelivery(name, delivery_id, "handled")
    attempts, due = stores.attempts.read(delivery_id), stores.delayed_messages.due_times().get(delivery_id)
    due_ms = None if due is None else int(due * 1_000)
    state: DeliveryState = "unknown" if due_ms is None else "retrying" if attempts else "deferred"
    return TracedDelivery(name, delivery_id, state, attempts=attempts, due_ms=due_ms)
