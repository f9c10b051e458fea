"""Delayed messages: retries and events that are published later.

They wait in the state store (tasks/stores/delayed_messages.py), on disk and in no worker's memory. Every worker sends
the due messages to their queues a few times a second.
"""

from __future__ import annotations

import base64
import json
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from petiole.tasks.broker.messages import build_message, queue_key
from petiole.tasks.broker.producer import open_producer
from petiole.tasks.broker.topology import (
    DUE_HEADER,
    PUBLISH_QUEUE,
    PUBLISH_TASK,
    VALIDATED_HEADER,
    broker_priority,
    broker_queue,
)
from petiole.tasks.instrumentation.tracing import end_publishing
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import QueueEntry, queue_list
from petiole.tasks.stores.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petiole.tasks.runtime import BusRuntime

log = logging.getLogger(__name__)


def build_delayed_message(
    bus: BusRuntime,
    task: str,
    text: str,
    *,
    item_id: str,
    task_id: str,
    due: datetime,
    queue: str,
    priority: int,
    displayed_arguments: str = "",
    retries: int = 0,
    headers: Mapping[str, str | None] | None = None,
    replaces: bool = False,
) -> DelayedMessage:
    """Build a delayed task message whose argument is an event's JSON text. `priority` is ours: 9 is first."""
    target_queue, target_priority = broker_queue(queue, priority, bus.driver), broker_priority(priority, bus.driver)
    message = build_message(
        task,
        text,
        delivery_id=task_id,
        queue=target_queue,
        priority=target_priority,
        displayed_arguments=displayed_arguments,
        retries=retries,
        headers={**(headers or {}), DUE_HEADER: due.isoformat()},
    )
    if not bus.publishes_atomically:
        return DelayedMessage(item_id, due, target_queue, "", message, replaces=replaces)
    list_key = bus.queue_prefix + queue_key(target_queue, target_priority)
    return DelayedMessage(item_id, due, wakeup_key(bus, target_queue), list_key, message, replaces=replaces)


def build_delayed_delivery(
    bus: BusRuntime, entry: QueueEntry, *, delivery_id: str, due: datetime, queue: str, priority: int
) -> DelayedMessage:
    """Build the next attempt of a delivery that is a queue entry. `priority` is ours: 9 is first."""
    list_key = queue_list(Keys(bus.settings.key_prefix), queue, priority)
    return DelayedMessage(delivery_id, due, wakeup_key(bus, queue), list_key, entry.text)


def wakeup_key(bus: BusRuntime, queue: str) -> str:
    """Return the key that wakes a consumer of a queue of our transport."""
    return f"{Keys(bus.settings.key_prefix).queue(queue)}:wakeup"


def delay_publication(bus: BusRuntime, validated: ValidatedEvent, due: datetime) -> DelayedMessage:
    """Build the message that publishes an event when it is due. Repeated calls store an event once."""
    event = validated.event
    end_publishing(validated.span)
    # The whole event, because the delay may be longer than the retention of separated contents.
    text = validated.text if validated.blob is None else json.dumps(validated.document, ensure_ascii=False)
    return build_delayed_message(
        bus,
        PUBLISH_TASK,
        text,
        item_id=f"publish:{event.event_id}",
        task_id=event.event_id,
        due=due,
        queue=PUBLISH_QUEUE,
        priority=event.priority,
        displayed_arguments=event.event_type,
        headers={VALIDATED_HEADER: "1"},
    )


def send_due(bus: BusRuntime, *, ahead: timedelta = timedelta(0)) -> int:
    """Send a bounded number of due messages to their queues and return how many. Safe in any number of workers.

    Args:
        bus: the bus whose messages are due.
        ahead: also send messages that are due within this time; for tests.

    Raises: BrokerUnavailable; redis-py's errors if the state store is unavailable.
    """
    if bus.publishes_atomically:
        return bus.stores.delayed_messages.move_due()
    claimed = bus.stores.delayed_messages.claim_due(ahead=ahead)
    if not claimed:
        return 0
    with open_producer(bus, "sending delayed messages") as producer:
        for message in claimed:
            # A crash between the next two calls sends a message twice, under the same id; it is handled once.
            arguments, options = _parse_call(json.loads(message.message))
            producer.send(bus.app.send_task, *arguments, queue=message.queue, **options)
            bus.stores.delayed_messages.confirm_sent(message)
    return len(claimed)


def _parse_call(message: Any) -> tuple[tuple[str], dict[str, Any]]:
    """Convert a message to the arguments of `send_task`."""
    headers, properties = message["headers"], message["properties"]
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    options = {
        "args": args,
        "kwargs": kwargs,
        "task_id": headers["id"],
        "priority": properties["priority"],
        "retries": headers["retries"],
        "headers": {name: value for name, value in headers.items() if name.startswith("petiole_")},
        "ignore_result": True,
        "argsrepr": headers["argsrepr"],
        "kwargsrepr": "",
    }
    return (headers["task"],), options
