"""Commit: record validated events in the history and send them to the queues of their subscriptions.

There are two implementations:

    atomically    if broker and state store are the same Redis: one script call does everything or nothing
    in steps      with any other broker: record, then send (broker/producer.py). Publishing the event again completes an
                  interrupted publication; it is safe because the delivery ids are deterministic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events import responses
from petiole.events.catalog.request import RequestContent
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
from petiole.events.responses import UnmatchedReply
from petiole.tasks.broker.producer import ConfirmingProducer, open_producer
from petiole.tasks.broker.topology import broker_priority, broker_queue
from petiole.tasks.instrumentation import EventPublished, OperationFailed
from petiole.tasks.instrumentation.tracing import end_publishing
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.publishing.validation import validate
from petiole.tasks.routing.table import Route, RoutingTable
from petiole.tasks.stores.connection_pool import NotExecuted
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import QueueEntry, queue_list
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.publications import CommitResult, OutgoingDelivery, OutgoingEvent, Settlement
from petiole.tasks.stores.requests import Reply, ReplyRegistration

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

CAPACITY_POLL_S = 0.02
"""Time between two tries of a publisher that waits for room in a full queue."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The result of a publish.

    Attributes:
        event: the event as it was published.
        subscriptions: the names of the subscriptions that it was sent to; for an event that had been published
            before, of those that match it now.
        was_repeated: the event had been published before; nothing was sent. After a lost answer, a publish is repeated
            by itself, so it may have been this call.
        was_buffered: the event is published when the handler succeeds.
        due: when a delayed event is published.
        unmatched: for a reply, why it reached no pending request.
    """

    event: Event
    subscriptions: tuple[str, ...] = ()
    was_repeated: bool = False
    was_buffered: bool = False
    due: datetime | None = None
    unmatched: UnmatchedReply | None = None


def commit(
    bus: BusRuntime,
    events: Sequence[ValidatedEvent],
    *,
    settlement: Settlement | None = None,
    delayed: Sequence[DelayedMessage] = (),
    is_refusable: bool = False,
    capacity_timeout: timedelta | None = None,
    registration: ReplyRegistration | None = None,
    skipped_queues: Collection[str] = (),
) -> list[Publication]:
    """Publish events in order, and settle a delivery and store delayed messages with them. Safe to repeat.

    Args:
        bus: the bus to publish on.
        events: the events to publish.
        settlement: the outcome of the delivery whose handler published the events.
        delayed: messages to send when they are due.
        is_refusable: raise SystemStopping if the system was shut down.
        capacity_timeout: how long to wait for room in a full queue; by default PETIOLE_QUEUE_FULL_TIMEOUT_S.
        registration: the pending request, if the first event is a request; it is stored before the event is sent.
        skipped_queues: queues that get nothing. Only one Redis has full queues, so only it looks here.

    Raises:
        NotConfigured, SystemStopping, QueueFull, BrokerUnavailable, BrokerFull, StateStoreUnavailable: nothing was
            committed.
        LeaseLost: another worker has leased the delivery; nothing was committed.
        PublishOutcomeUnknown: the connection was lost; the events may have been published.
        UsageError: queue_declared_otherwise, duplicate_request.
    """
    claim_check.store_contents(bus, events)
    if is_refusable:
        require_accepting(bus, f"publishing {_format_topics(events)}", is_forced=not events)
    try:
        if bus.publishes_atomically:
            publications = _commit_atomically(
                bus,
                events,
                settlement,
                delayed,
                registration,
                is_refusable=is_refusable,
                capacity_timeout=capacity_timeout,
                skipped_queues=skipped_queues,
            )
        else:
            publications = _commit_in_steps(bus, events, settlement, delayed, registration)
    except OutOfMemoryError as error:
        raise BrokerFull(f"publishing {_format_topics(events)}", str(error), bus.state_store_name) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise bus.outage(f"publishing {_format_topics(events)}", error) from error
    for publication in publications:
        if publication.unmatched is not None:
            _publish_unmatched_reply(bus, publication.event, publication.unmatched)
    return publications


def _publish_unmatched_reply(bus: BusRuntime, event: Event, reason: UnmatchedReply) -> None:
    """Publish that a reply reached no pending request. The reply is committed, so an error is only logged."""
    try:
        commit(bus, [validate(bus, responses.build_unmatched_reply(event, reason))])
    except (BrokerUnavailable, StateStoreUnavailable, QueueFull) as error:
        failed = OperationFailed(operation="unmatched_reply.publish_failed", exception=error, subject=event.event_id)
        bus.instrumentation.emit(failed)


def require_accepting(bus: BusRuntime, operation: str, *, is_forced: bool = False) -> None:
    """Raise SystemStopping if the system was shut down. With `is_forced`, the current state is read from the store.

    Raises: SystemStopping, BrokerFull, BrokerUnavailable, StateStoreUnavailable.
    """
    try:
        bus.check_accepting(is_forced=is_forced)
    except OutOfMemoryError as error:
        raise BrokerFull(operation, str(error), bus.state_store_name) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise bus.outage(operation, error) from error


def _commit_atomically(
    bus: BusRuntime,
    events: Sequence[ValidatedEvent],
    settlement: Settlement | None,
    delayed: Sequence[DelayedMessage],
    registration: ReplyRegistration | None,
    *,
    is_refusable: bool,
    capacity_timeout: timedelta | None,
    skipped_queues: Collection[str],
) -> list[Publication]:
    """Publish in one script call. Route again if the directory has changed, and wait for room in a full queue."""
    if capacity_timeout is None:
        capacity_timeout = timedelta(seconds=bus.settings.queue_full_timeout_s)
    deadline = time.monotonic() + capacity_timeout.total_seconds()
    while True:
        table = bus.cached_routing()
        routes = [_routes(table, event) for event in events]
        if skipped_queues:
            routes = [[each for each in some if each.subscription.queue not in skipped_queues] for some in routes]
        outgoing = [_build_outgoing_event(bus, *pair) for pair in zip(events, routes, strict=True)]
        result = _call_store(
            partial(bus.stores.publications.publish, outgoing, table.version, settlement, delayed, registration), events
        )
        match result.status:
            case "directory_changed":
                bus.read_routing()
                if is_refusable:
                    bus.check_accepting()
            case "queue_full":
                _wait_for_capacity(str(result.full_queue), events, routes, deadline)
            case "duplicate_request" if registration is not None:
                raise duplicate_request(registration.request_type, _given_id(events, registration))
            case "lease_lost":
                raise LeaseLost(settlement.delivery_id if settlement else "")
            case _:
                were_new = result.are_new or (False,) * len(events)
                unmatched = result.unmatched or (None,) * len(events)
                rows = zip(events, routes, were_new, unmatched, strict=True)
                return [_build_publication(bus, *row) for row in rows]


def _given_id(events: Sequence[ValidatedEvent], registration: ReplyRegistration) -> str:
    """Return the id of a request as its requester gave it."""
    contents = (validated.event.content for validated in events)
    return next((one.request_id for one in contents if isinstance(one, RequestContent)), registration.request_id)


def _routes(table: RoutingTable, validated: ValidatedEvent) -> list[Route]:
    return table.routes(validated.event, lambda: validated.document)


def _wait_for_capacity(
    queue: str, events: Sequence[ValidatedEvent], routes: Sequence[Sequence[Route]], deadline: float
) -> None:
    """Wait before the next try. Raises QueueFull if no subscription of the queue blocks, or the deadline is over."""
    subscriptions = [route.subscription for event_routes in routes for route in event_routes]
    blocks = any(each.queue == queue and each.overflow == "block" for each in subscriptions)
    if not blocks or time.monotonic() >= deadline:
        raise QueueFull(queue, _format_topics(events))
    time.sleep(CAPACITY_POLL_S)


def _call_store(publish: Callable[[], CommitResult], events: Sequence[ValidatedEvent]) -> CommitResult:
    """Call the script, and once more if the connection is lost during the call: a repeat is harmless."""
    try:
        return publish()
    except NotExecuted:
        raise
    except (RedisConnectionError, RedisTimeoutError):
        try:
            return publish()
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise PublishOutcomeUnknown(f"publishing {_format_topics(events)}") from error


def _build_outgoing_event(bus: BusRuntime, validated: ValidatedEvent, routes: Sequence[Route]) -> OutgoingEvent:
    event, prefix = validated.event, bus.settings.key_prefix
    deliveries = [_build_delivery(prefix, validated, route) for route in routes]
    if validated.redacted is None:
        return OutgoingEvent(event, validated.text, deliveries, Reply.of(event))
    deliveries = [_with_own_event(delivery, validated.text) for delivery in deliveries]
    return OutgoingEvent(event, validated.redacted.text, deliveries, Reply.of(event), validated.text)


def _build_delivery(prefix: str, validated: ValidatedEvent, route: Route) -> OutgoingDelivery:
    subscription = route.subscription
    plain = _build_plain_delivery(prefix, subscription.queue, route.name, route.priority)
    if subscription.ordered_by is None and subscription.capacity is None:
        return plain
    group = _message_group(validated, route)
    options = {"group": group} if group else {}
    return OutgoingDelivery(
        plain.queue_list,
        QueueEntry("", route.name, options=options).head,
        subscription.capacity or 0,
        subscription.overflow == "drop_oldest",
        group,
    )


def _with_own_event(delivery: OutgoingDelivery, text: str) -> OutgoingDelivery:
    entry = QueueEntry.parse(delivery.entry.encode()).with_own_event(text)
    return delivery._replace(entry=entry.text)


@lru_cache(10_000)
def _build_plain_delivery(prefix: str, queue: str, name: str, priority: int) -> OutgoingDelivery:
    return OutgoingDelivery(queue_list(Keys(prefix), queue, priority), QueueEntry("", name).head)


def _message_group(validated: ValidatedEvent, route: Route) -> str | None:
    subscription = route.subscription
    # Checked first, because parsing the document is not free.
    return subscription.message_group_for(validated.document) if subscription.ordered_by else None


def _commit_in_steps(
    bus: BusRuntime,
    events: Sequence[ValidatedEvent],
    settlement: Settlement | None,
    delayed: Sequence[DelayedMessage],
    registration: ReplyRegistration | None,
) -> list[Publication]:
    if registration is not None and not bus.stores.requests.register(registration):
        raise duplicate_request(registration.request_type, _given_id(events, registration))
    publications = _record_and_send(bus, events) if events else []
    if settlement is not None or delayed:
        # The state store changes atomically here, too. A crash before it is harmless: the next attempt publishes the
        # same events under the same ids.
        bus.stores.publications.publish([], 0, settlement, delayed)
    return publications


def _record_and_send(bus: BusRuntime, events: Sequence[ValidatedEvent]) -> list[Publication]:
    # Connect before anything is recorded, so that an unavailable broker leaves no trace.
    with open_producer(bus, f"publishing {_format_topics(events)}") as producer:
        return [_publish_one(bus, event, producer) for event in events]


def _publish_one(bus: BusRuntime, validated: ValidatedEvent, producer: ConfirmingProducer) -> Publication:
    event = validated.event
    routes = _routes(bus.routing(), validated)
    _check_order_is_kept(bus, routes)
    if bus.stores.history.record(event, validated.recorded.text) == "done":
        return _build_publication(bus, validated, routes, was_new=False, unmatched=None)
    _send(bus, validated, routes, producer)
    reply = Reply.of(event)
    unmatched = bus.stores.requests.respond(reply, validated.text) if reply else None
    # Marked after the last send: after a crash before this line, publishing the event again sends the rest.
    bus.stores.history.mark_published(event.event_id)
    return _build_publication(bus, validated, routes, was_new=True, unmatched=unmatched)


def _check_order_is_kept(bus: BusRuntime, routes: Sequence[Route]) -> None:
    """Raise NotConfigured for an ordered subscription, whose order only an atomic publish can keep.

    An in-process bus keeps it too, because its one worker thread handles one message at a time.
    """
    for route in routes:
        if route.subscription.ordered_by is not None and bus.driver != "memory":
            remedy = "let the broker and PETIOLE_STATE_URL be the same Redis, or subscribe without `ordered`"
            raise NotConfigured(f"the order of {route.subscription.name!r}", remedy)


def _send(bus: BusRuntime, validated: ValidatedEvent, routes: Sequence[Route], producer: ConfirmingProducer) -> None:
    event = validated.event
    if not routes:
        bus.stores.counters.add("unrouted")
        return
    with producer.producer.batch():
        for route in routes:
            producer.send(
                bus.app.send_task,
                route.subscription.name,
                args=(validated.payload,),
                task_id=route.delivery_id,
                queue=broker_queue(route.subscription.queue, route.priority, bus.driver),
                priority=broker_priority(route.priority, bus.driver),
                ignore_result=True,
                serializer="json",
                argsrepr=event.event_type,
                kwargsrepr="",
                # Its own context: that of the sender would be added otherwise.
                headers={"traceparent": event.traceparent},
            )


def _build_publication(
    bus: BusRuntime,
    validated: ValidatedEvent,
    routes: Sequence[Route],
    was_new: bool,  # noqa: FBT001 - positional, from a zipped row
    unmatched: UnmatchedReply | None,
) -> Publication:
    event, names = validated.event, tuple(route.name for route in routes)
    if not was_new:
        return Publication(event, names, was_repeated=True, unmatched=unmatched)
    end_publishing(validated.span)
    if bus.instrumentation.wants(EventPublished):
        record = EventPublished(
            event_type=event.event_type,
            event_id=event.event_id,
            stream_id=event.stream_id,
            correlation_id=event.correlation_id,
            subscriptions=names,
        )
        bus.instrumentation.emit(record)
    return Publication(event, names, unmatched=unmatched)


def _format_topics(events: Sequence[ValidatedEvent]) -> str:
    return ", ".join(dict.fromkeys(validated.event.event_type for validated in events)) or "events"
