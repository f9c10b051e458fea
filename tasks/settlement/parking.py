"""Parking: keep a delivery that this process cannot run, and that another version of it can, for such a worker.

    the handler is unknown       its agent was changed: the subscription was made by a newer or an older worker
    the event type is unknown    its publisher is newer
    the version is unknown       its publisher is newer, and the event does not fit the schema that this process has

A parked delivery is no failure: there is no dead letter, no attempt is used, and nothing is published. Workers that
have what it needs take it by themselves (tasks/consuming/parked.py). Above PETIOLE_MAX_PARKED it is dead-lettered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.exceptions import RedisError

from petiole.events.errors import PetioleError
from petiole.events.event import MAX_PRIORITY
from petiole.events.ids import AGENT_NAME
from petiole.events.subscriptions import FUNCTION_NAME
from petiole.events.topics import is_topic
from petiole.tasks.broker.topology import VALIDATED_HEADER, logical_queue
from petiole.tasks.instrumentation import DeliveryParked
from petiole.tasks.publishing.delayed import build_delayed_message
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.settlement import DeliveryAttempt, requeue
from petiole.tasks.settlement.undecodable import read_document, read_headers
from petiole.tasks.stores.deliveries import DEAD_LETTER_HEADER, MESSAGE_GROUP_HEADER, REPLAY_HEADER
from petiole.tasks.stores.parked import Need, ParkResult
from petiole.tasks.stores.publications import Lease
from petiole.tasks.transport.consumer_id import CONSUMER_HEADER

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

# Kombu's message; the stubs describe too little of it to check against.
ReceivedMessage: TypeAlias = Any

_DEFAULT_PRIORITY = 5


def park(attempt: DeliveryAttempt, error: Exception, *, due: datetime | None = None) -> Outcome | None:
    """Park a delivery whose event this process cannot read. Returns None if no other version of it could, either.

    `due` is when an event of `publish.delay` is to be published.

    Raises Reject: the store is unreachable; the broker redelivers the message.
    """
    need = _need_of(attempt, error)
    if need is None:
        return None
    headers = {
        MESSAGE_GROUP_HEADER: attempt.message_group,
        REPLAY_HEADER: attempt.replay_id,
        DEAD_LETTER_HEADER: attempt.letter_id,
        VALIDATED_HEADER: "1",
    }
    try:
        result = _store(
            attempt.bus,
            need,
            str(error),
            attempt.lease,
            delivery_id=attempt.delivery_id,
            task=attempt.task,
            document=attempt.document,
            headers=headers,
            due=due,
        )
    except RedisError as failure:
        requeue(attempt, failure)
    match result:
        case "full":
            return None
        case "lease_lost":
            return Outcome.LEASE_LOST
    attempt.emit(DeliveryParked, need=str(need), error=str(error))
    return Outcome.PARKED


def park_unknown_task(bus: BusRuntime, message: ReceivedMessage) -> bool:
    """Park a delivery for a handler that this worker's agent does not have. Returns False if it is none.

    Raises redis-py's errors.
    """
    headers = read_headers(message)
    queue = logical_queue(str((message.delivery_info or {}).get("routing_key")))
    task, delivery_id, consumer = headers.get("task"), headers.get("id"), headers.get(CONSUMER_HEADER)
    document = read_document(message)
    if document is None or not isinstance(delivery_id, str) or not _is_handler_of(queue, task):
        return False
    need = Need(queue, "handler", str(task))
    lease = Lease(message.delivery_tag, consumer, is_entry=True) if isinstance(consumer, str) else None
    names = (MESSAGE_GROUP_HEADER, REPLAY_HEADER, DEAD_LETTER_HEADER)
    kept = {name: value for name in names if isinstance(value := headers.get(name), str)}
    reason = f"the agent {queue!r} of this worker has no handler {need.name!r}"
    result = _store(bus, need, reason, lease, delivery_id=delivery_id, task=need.name, document=document, headers=kept)
    if result == "full":
        return False
    record = DeliveryParked(delivery_id=delivery_id, subscription=need.name, need=str(need), error=reason)
    bus.instrumentation.emit(record)
    return True


def _is_handler_of(queue: str, task: object) -> bool:
    agent, _, function = task.partition(".") if isinstance(task, str) else ("", "", "")
    return agent == queue and bool(re.match(AGENT_NAME, agent) and re.match(FUNCTION_NAME, function))


def _need_of(attempt: DeliveryAttempt, error: Exception) -> Need | None:
    document = attempt.document if isinstance(attempt.document, Mapping) else {}
    topic, version = document.get("event_type"), document.get("schema_version")
    if not isinstance(error, PetioleError) or not isinstance(topic, str) or not is_topic(topic):
        return None
    if error.code == "unknown_event_type":
        return Need(attempt.queue, "type", topic)
    if error.code == "newer_version" and isinstance(version, int):
        return Need(attempt.queue, "version", topic, version)
    return None


def _store(
    bus: BusRuntime,
    need: Need,
    reason: str,
    lease: Lease | None,
    *,
    delivery_id: str,
    task: str,
    document: Any,
    headers: Mapping[str, str | None],
    due: datetime | None = None,
) -> ParkResult:
    """Park a leased delivery, or a message of another broker, which is sent again when it is released."""
    if lease is not None and bus.publishes_atomically:
        return bus.stores.parked.park(need, reason, lease)
    message = build_delayed_message(
        bus,
        task,
        json.dumps(document, ensure_ascii=False),
        item_id=delivery_id,
        task_id=delivery_id,
        due=due or bus.now(),
        queue=need.queue,
        priority=_priority_of(document),
        displayed_arguments=str(document.get("event_type")),
        headers=headers,
    )
    return bus.stores.parked.park_message(need, reason, message)


def _priority_of(document: Mapping[str, object]) -> int:
    priority = document.get("priority")
    return priority if isinstance(priority, int) and 0 <= priority <= MAX_PRIORITY else _DEFAULT_PRIORITY
