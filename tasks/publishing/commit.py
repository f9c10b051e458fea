"""Dispatch: checked events go to the history, and to every queue that wants them.

There are two ways out:

    in one step     where the broker and the state store are the same Redis: one script, one round trip, all or nothing
    step by step    on any other broker: recorded first, then sent, see sending.py; a publication that was cut short is
                    completed when the same event is published again, and deterministic ids make the repeat harmless
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events import responses
from petiole.events.errors import (
    BrokerFull,
    BrokerUnavailable,
    LeaseLost,
    NotConfigured,
    PublishOutcomeUnknown,
    QueueFull,
    StateStoreUnavailable,
    duplicate_request,
)
from petiole.events.event import Event
from petiole.events.responses import Unwanted
from petiole.tasks.broker.messages import FLOW_HEADER, seal, tail_of
from petiole.tasks.broker.producer import Outlet, sending
from petiole.tasks.broker.topology import broker_priority, lane
from petiole.tasks.instrumentation import EventPublished, OperationFailed
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import Admitted
from petiole.tasks.publishing.validation import checked
from petiole.tasks.routing.table import Route, RoutingTable
from petiole.tasks.stores.delayed_messages import Waiting
from petiole.tasks.stores.publications import Posting, Settling, Verdict
from petiole.tasks.stores.requests import Answering, Asking

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

ROOM_POLL_S = 0.02
"""How long a publisher that waits for room in a queue looks away."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of a publish: the event as it went out, and the subscriptions it was sent to.

    `was_repeated` tells that all of it had been sent before; `was_held` that it leaves when the handler succeeds;
    `due`, when it is published where that is not now. `unwanted` says why an answer to a request reached nobody.
    """

    event: Event
    subscriptions: tuple[str, ...] = ()
    was_repeated: bool = False
    was_held: bool = False
    due: datetime | None = None
    unwanted: Unwanted | None = None


def dispatch(
    bus: BusRuntime,
    events: Sequence[Admitted],
    *,
    settling: Settling | None = None,
    waiting: Sequence[Waiting] = (),
    is_refusable: bool = False,
    patience: timedelta | None = None,
    asking: Asking | None = None,
) -> list[Publication]:
    """Publish events, in order; with `settling`, end the run of a delivery too; `waiting` comes later. Safe to repeat.

    `patience` is how long to wait for room in a full queue, by default PETIOLE_QUEUE_FULL_TIMEOUT_S. With `asking`, the
    first event is a request: before it is sent, it is noted who waits for its answer.

    Raises: NotConfigured, QueueFull, BrokerUnavailable (BrokerFull, StateStoreUnavailable), PublishOutcomeUnknown where
    the outcome is unknown, UsageError (queue_declared_otherwise); SystemStopping where it `is_refusable`; LeaseLost
    where another worker has the delivery, and nothing happened.
    """
    in_one_step = bus.publishes_in_one_step
    claim_check.store(bus, events)
    if is_refusable:
        check_open(bus, f"publishing {_names(events)}", asks=not events)
    try:
        if in_one_step:
            patience = timedelta(seconds=bus.settings.queue_full_timeout_s) if patience is None else patience
            told = _in_one_step(bus, events, settling, waiting, asking, is_refusable=is_refusable, patience=patience)
        else:
            told = _step_by_step(bus, events, settling, waiting, asking)
    except OutOfMemoryError as error:
        raise BrokerFull(f"publishing {_names(events)}", str(error), bus.state_store_name) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise bus.outage(f"publishing {_names(events)}") from error
    for each in told:
        if each.unwanted is not None:
            _tell_unwanted(bus, each.event, each.unwanted)
    return told


def _tell_unwanted(bus: BusRuntime, event: Event, reason: Unwanted) -> None:
    """Say that an answer reached nobody. It is counted already, and published: nothing may fail because of this."""
    try:
        dispatch(bus, [checked(bus, responses.unwanted(event, reason))])
    except (BrokerUnavailable, StateStoreUnavailable, QueueFull) as error:
        failed = OperationFailed(operation="response_late.publish_failed", exception=error, subject=event.event_id)
        bus.instrumentation.emit(failed)


def check_open(bus: BusRuntime, tried: str, *, asks: bool = False) -> None:
    """Raise SystemStopping where the system was shut down; BrokerUnavailable. `asks` even if nothing hints at it."""
    try:
        bus.check_open(asks=asks)
    except OutOfMemoryError as error:
        raise BrokerFull(tried, str(error), bus.state_store_name) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise bus.outage(tried) from error


def _in_one_step(
    bus: BusRuntime,
    events: Sequence[Admitted],
    settling: Settling | None,
    waiting: Sequence[Waiting],
    asking: Asking | None,
    *,
    is_refusable: bool,
    patience: timedelta,
) -> list[Publication]:
    """Publish, following the directory while it changes, and waiting for room where a queue has none."""
    gives_up_at = time.monotonic() + patience.total_seconds()
    while True:
        table = bus.known_routing()
        routes = [_routes(table, each) for each in events]
        postings = [_posting(bus, *pair) for pair in zip(events, routes, strict=True)]
        verdict = _call(
            partial(bus.stores.publications.publish, postings, table.version, settling, waiting, asking), events
        )
        match verdict.answer:
            case "moved":
                bus.read_routing()
                if is_refusable:
                    bus.check_open()
            case "full":
                queue = str(verdict.full_queue).removeprefix(bus.queue_prefix)
                _wait_for_room(queue, events, routes, gives_up_at)
            case "refused" if asking is not None:
                raise duplicate_request(asking.request_type, asking.request_id)
            case "fenced":
                raise LeaseLost(settling.delivery_id if settling else "")
            case _:
                were_new = verdict.were_new or (False,) * len(events)
                unwanted = verdict.unwanted or (None,) * len(events)
                return [_told(bus, *each) for each in zip(events, routes, were_new, unwanted, strict=True)]


def _routes(table: RoutingTable, admitted: Admitted) -> list[Route]:
    return table.routes(admitted.event, lambda: admitted.document)


def _wait_for_room(
    queue: str, events: Sequence[Admitted], routes: Sequence[Sequence[Route]], gives_up_at: float
) -> None:
    """Wait a moment before another try. Raises QueueFull where publishers do not wait, or have waited long enough."""
    subscriptions = [route.subscription for each in routes for route in each]
    blocks = any(each.queue == queue and each.overflow == "block" for each in subscriptions)
    if not blocks or time.monotonic() >= gives_up_at:
        raise QueueFull(queue, _names(events))
    time.sleep(ROOM_POLL_S)


def _call(publish: Callable[[], Verdict], events: Sequence[Admitted]) -> Verdict:
    """Run the step; once more where the connection was lost in it, since a repeat changes nothing."""
    try:
        return publish()
    except (RedisConnectionError, RedisTimeoutError) as lost:
        if isinstance(lost.__cause__, ConnectionRefusedError):
            raise
        try:
            return publish()
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise PublishOutcomeUnknown(f"publishing {_names(events)}") from error


def _posting(bus: BusRuntime, admitted: Admitted, routes: Sequence[Route]) -> Posting:
    event = admitted.event
    mailboxes = [_mailbox(admitted, route) for route in routes]
    messages = seal(
        routes, mailboxes, event_type=event.event_type, flow=event.correlation_id, key_prefix=bus.queue_prefix
    )
    return Posting(event, admitted.text, tail_of(admitted.text), messages, Answering.of(event))


def _mailbox(admitted: Admitted, route: Route) -> str | None:
    subscription = route.subscription
    # Asked first: the document is not free.
    return subscription.mailbox_for(admitted.document) if subscription.ordered_by else None


def _step_by_step(
    bus: BusRuntime,
    events: Sequence[Admitted],
    settling: Settling | None,
    waiting: Sequence[Waiting],
    asking: Asking | None,
) -> list[Publication]:
    if asking is not None and not bus.stores.requests.register(asking):
        raise duplicate_request(asking.request_type, asking.request_id)
    told = _recorded_and_sent(bus, events) if events else []
    if settling is not None or waiting:
        # What is remembered changes in one step, here too. Dying before it is harmless: the next run says the same
        # events under the same ids.
        bus.stores.publications.publish([], 0, settling, waiting)
    return told


def _recorded_and_sent(bus: BusRuntime, events: Sequence[Admitted]) -> list[Publication]:
    # Connected before anything is recorded: without a broker, nothing happened.
    with sending(bus, f"publishing {_names(events)}") as outlet:
        return [_one_by_one(bus, each, outlet) for each in events]


def _one_by_one(bus: BusRuntime, admitted: Admitted, outlet: Outlet) -> Publication:
    event = admitted.event
    routes = _routes(bus.routing(), admitted)
    _check_order_is_kept(bus, routes)
    if bus.stores.history.record(event, admitted.text) == "done":
        return Publication(event, was_repeated=True)
    _send(bus, admitted, routes, outlet)
    answering = Answering.of(event)
    unwanted = bus.stores.requests.respond(answering, admitted.text) if answering else None
    # Noted after the last send: a publisher that dies before it leaves a publication that the next one completes.
    bus.stores.history.close(event.event_id)
    return _told(bus, admitted, routes, was_new=True, unwanted=unwanted)


def _check_order_is_kept(bus: BusRuntime, routes: Sequence[Route]) -> None:
    """Raise NotConfigured for an ordered subscription on a broker where nobody keeps its order.

    In the harness one slot handles everything in turn, so the order keeps itself.
    """
    for route in routes:
        if route.subscription.ordered_by is not None and bus.driver != "memory":
            remedy = "let the broker and PETIOLE_STATE_URL be the same Redis, or subscribe without `ordered`"
            raise NotConfigured(f"the order of {route.subscription.name!r}", remedy)


def _send(bus: BusRuntime, admitted: Admitted, routes: Sequence[Route], outlet: Outlet) -> None:
    event = admitted.event
    if not routes:
        bus.stores.counters.add("unrouted")
        return
    with outlet.producer.batch():
        for route in routes:
            outlet.send(
                bus.app.send_task,
                route.subscription.name,
                args=(admitted.travelling,),
                task_id=route.delivery_id,
                queue=lane(route.subscription.queue, route.priority, bus.driver),
                priority=broker_priority(route.priority, bus.driver),
                ignore_result=True,
                serializer="json",
                headers={FLOW_HEADER: event.correlation_id},
                argsrepr=event.event_type,
                kwargsrepr="",
            )


def _told(
    bus: BusRuntime,
    admitted: Admitted,
    routes: Sequence[Route],
    was_new: bool,  # noqa: FBT001 - a fact, no choice
    unwanted: Unwanted | None,
) -> Publication:
    event = admitted.event
    if not was_new:
        return Publication(event, was_repeated=True, unwanted=unwanted)
    names = tuple(route.subscription.name for route in routes)
    record = EventPublished(
        event_type=event.event_type,
        event_id=event.event_id,
        stream_id=event.stream_id,
        correlation_id=event.correlation_id,
        subscriptions=names,
    )
    bus.instrumentation.emit(record)
    return Publication(event, names, unwanted=unwanted)


def _names(events: Sequence[Admitted]) -> str:
    return ", ".join(dict.fromkeys(each.event.event_type for each in events)) or "nothing"
