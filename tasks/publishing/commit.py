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
from petiole.events.responses import UnmatchedReply
from petiole.tasks.broker.messages import FLOW_HEADER, build_messages, encode_body
from petiole.tasks.broker.producer import ConfirmingProducer, open_producer
from petiole.tasks.broker.topology import broker_priority, broker_queue
from petiole.tasks.instrumentation import EventPublished, OperationFailed
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.publishing.validation import validate
from petiole.tasks.routing.table import Route, RoutingTable
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.publications import CommitResult, OutgoingEvent, Settlement
from petiole.tasks.stores.requests import Reply, ReplyRegistration

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

CAPACITY_POLL_S = 0.02
"""How long a publisher that waits for room in a queue looks away."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of a publish: the event as it went out, and the subscriptions it was sent to.

    `was_repeated` tells that all of it had been sent before; `was_buffered` that it leaves when the handler succeeds;
    `due`, when it is published where that is not now. `unwanted` says why an answer to a request reached nobody.
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
) -> list[Publication]:
    """Publish events, in order; with `settling`, end the run of a delivery too; `waiting` comes later. Safe to repeat.

    `patience` is how long to wait for room in a full queue, by default PETIOLE_QUEUE_FULL_TIMEOUT_S. With `asking`, the
    first event is a request: before it is sent, it is noted who waits for its answer.

    Raises: NotConfigured, QueueFull, BrokerUnavailable (BrokerFull, StateStoreUnavailable), PublishOutcomeUnknown where
    the outcome is unknown, UsageError (queue_declared_otherwise); SystemStopping where it `is_refusable`; LeaseLost
    where another worker has the delivery, and nothing happened.
    """
    in_one_step = bus.publishes_atomically
    claim_check.store_contents(bus, events)
    if is_refusable:
        require_accepting(bus, f"publishing {_format_topics(events)}", is_forced=not events)
    try:
        if in_one_step:
            capacity_timeout = (
                timedelta(seconds=bus.settings.queue_full_timeout_s) if capacity_timeout is None else capacity_timeout
            )
            told = _commit_atomically(
                bus,
                events,
                settlement,
                delayed,
                registration,
                is_refusable=is_refusable,
                capacity_timeout=capacity_timeout,
            )
        else:
            told = _commit_in_steps(bus, events, settlement, delayed, registration)
    except OutOfMemoryError as error:
        raise BrokerFull(f"publishing {_format_topics(events)}", str(error), bus.state_store_name) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise bus.outage(f"publishing {_format_topics(events)}") from error
    for each in told:
        if each.unmatched is not None:
            _publish_unmatched_reply(bus, each.event, each.unmatched)
    return told


def _publish_unmatched_reply(bus: BusRuntime, event: Event, reason: UnmatchedReply) -> None:
    """Say that an answer reached nobody. It is counted already, and published: nothing may fail because of this."""
    try:
        commit(bus, [validate(bus, responses.build_unmatched_reply(event, reason))])
    except (BrokerUnavailable, StateStoreUnavailable, QueueFull) as error:
        failed = OperationFailed(operation="unmatched_reply.publish_failed", exception=error, subject=event.event_id)
        bus.instrumentation.emit(failed)


def require_accepting(bus: BusRuntime, operation: str, *, is_forced: bool = False) -> None:
    """Raise SystemStopping where the system was shut down; BrokerUnavailable. `asks` even if nothing hints at it."""
    try:
        bus.check_accepting(is_forced=is_forced)
    except OutOfMemoryError as error:
        raise BrokerFull(operation, str(error), bus.state_store_name) from error
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise bus.outage(operation) from error


def _commit_atomically(
    bus: BusRuntime,
    events: Sequence[ValidatedEvent],
    settlement: Settlement | None,
    delayed: Sequence[DelayedMessage],
    registration: ReplyRegistration | None,
    *,
    is_refusable: bool,
    capacity_timeout: timedelta,
) -> list[Publication]:
    """Publish, following the directory while it changes, and waiting for room where a queue has none."""
    gives_up_at = time.monotonic() + capacity_timeout.total_seconds()
    while True:
        table = bus.cached_routing()
        routes = [_routes(table, each) for each in events]
        postings = [_build_outgoing_event(bus, *pair) for pair in zip(events, routes, strict=True)]
        verdict = _call_store(
            partial(bus.stores.publications.publish, postings, table.version, settlement, delayed, registration), events
        )
        match verdict.status:
            case "directory_changed":
                bus.read_routing()
                if is_refusable:
                    bus.check_accepting()
            case "queue_full":
                queue = str(verdict.full_queue).removeprefix(bus.queue_prefix)
                _wait_for_capacity(queue, events, routes, gives_up_at)
            case "duplicate_request" if registration is not None:
                raise duplicate_request(registration.request_type, registration.request_id)
            case "lease_lost":
                raise LeaseLost(settlement.delivery_id if settlement else "")
            case _:
                were_new = verdict.are_new or (False,) * len(events)
                unwanted = verdict.unmatched or (None,) * len(events)
                return [_build_publication(bus, *each) for each in zip(events, routes, were_new, unwanted, strict=True)]


def _routes(table: RoutingTable, validated: ValidatedEvent) -> list[Route]:
    return table.routes(validated.event, lambda: validated.document)


def _wait_for_capacity(
    queue: str, events: Sequence[ValidatedEvent], routes: Sequence[Sequence[Route]], ends_at: float
) -> None:
    """Wait a moment before another try. Raises QueueFull where publishers do not wait, or have waited long enough."""
    subscriptions = [route.subscription for each in routes for route in each]
    blocks = any(each.queue == queue and each.overflow == "block" for each in subscriptions)
    if not blocks or time.monotonic() >= ends_at:
        raise QueueFull(queue, _format_topics(events))
    time.sleep(CAPACITY_POLL_S)


def _call_store(publish: Callable[[], CommitResult], events: Sequence[ValidatedEvent]) -> CommitResult:
    """Run the step; once more where the connection was lost in it, since a repeat changes nothing."""
    try:
        return publish()
    except (RedisConnectionError, RedisTimeoutError) as lost:
        if isinstance(lost.__cause__, ConnectionRefusedError):
            raise
        try:
            return publish()
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise PublishOutcomeUnknown(f"publishing {_format_topics(events)}") from error


def _build_outgoing_event(bus: BusRuntime, validated: ValidatedEvent, routes: Sequence[Route]) -> OutgoingEvent:
    event = validated.event
    mailboxes = [_message_group(validated, route) for route in routes]
    messages = build_messages(
        routes, mailboxes, event_type=event.event_type, flow=event.correlation_id, key_prefix=bus.queue_prefix
    )
    return OutgoingEvent(event, validated.text, encode_body(validated.text), messages, Reply.of(event))


def _message_group(validated: ValidatedEvent, route: Route) -> str | None:
    subscription = route.subscription
    # Asked first: the document is not free.
    return subscription.message_group_for(validated.document) if subscription.ordered_by else None


def _commit_in_steps(
    bus: BusRuntime,
    events: Sequence[ValidatedEvent],
    settlement: Settlement | None,
    delayed: Sequence[DelayedMessage],
    registration: ReplyRegistration | None,
) -> list[Publication]:
    if registration is not None and not bus.stores.requests.register(registration):
        raise duplicate_request(registration.request_type, registration.request_id)
    told = _record_and_send(bus, events) if events else []
    if settlement is not None or delayed:
        # What is remembered changes in one step, here too. Dying before it is harmless: the next run says the same
        # events under the same ids.
        bus.stores.publications.publish([], 0, settlement, delayed)
    return told


def _record_and_send(bus: BusRuntime, events: Sequence[ValidatedEvent]) -> list[Publication]:
    # Connected before anything is recorded: without a broker, nothing happened.
    with open_producer(bus, f"publishing {_format_topics(events)}") as outlet:
        return [_publish_one(bus, each, outlet) for each in events]


def _publish_one(bus: BusRuntime, validated: ValidatedEvent, producer: ConfirmingProducer) -> Publication:
    event = validated.event
    routes = _routes(bus.routing(), validated)
    _check_order_is_kept(bus, routes)
    if bus.stores.history.record(event, validated.text) == "done":
        return Publication(event, was_repeated=True)
    _send(bus, validated, routes, producer)
    answering = Reply.of(event)
    unwanted = bus.stores.requests.respond(answering, validated.text) if answering else None
    # Noted after the last send: a publisher that dies before it leaves a publication that the next one completes.
    bus.stores.history.mark_published(event.event_id)
    return _build_publication(bus, validated, routes, was_new=True, unmatched=unwanted)


def _check_order_is_kept(bus: BusRuntime, routes: Sequence[Route]) -> None:
    """Raise NotConfigured for an ordered subscription on a broker where nobody keeps its order.

    In the harness one slot handles everything in turn, so the order keeps itself.
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
                headers={FLOW_HEADER: event.correlation_id},
                argsrepr=event.event_type,
                kwargsrepr="",
            )


def _build_publication(
    bus: BusRuntime,
    validated: ValidatedEvent,
    routes: Sequence[Route],
    was_new: bool,  # noqa: FBT001 - a fact, no choice
    unmatched: UnmatchedReply | None,
) -> Publication:
    event = validated.event
    if not was_new:
        return Publication(event, was_repeated=True, unmatched=unmatched)
    names = tuple(route.subscription.name for route in routes)
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
    return ", ".join(dict.fromkeys(each.event.event_type for each in events)) or "nothing"
