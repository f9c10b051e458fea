"""Waiting: messages that come later, and how they leave the waiting room when their time has come.

A retry, and an event that is published for later, wait in the same room (tasks/stores/delayed_messages.py): on disk
with the
broker's data, in no worker's memory. Every worker looks there a few times a second and moves what is due.
"""

from __future__ import annotations

import base64
import json
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from petiole.tasks.broker.messages import build_message, queue_key
from petiole.tasks.broker.producer import open_producer
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK, broker_priority, broker_queue
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.stores.delayed_messages import DelayedMessage

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
    """Make a message that waits: a task call whose argument is an event's JSON text; our priority, 9 first."""
    lane_of, at_broker = broker_queue(queue, priority, bus.driver), broker_priority(priority, bus.driver)
    said = build_message(
        task,
        text,
        delivery_id=task_id,
        queue=lane_of,
        priority=at_broker,
        displayed_arguments=displayed_arguments,
        retries=retries,
        headers=headers or {},
    )
    prefix = bus.queue_prefix
    list_key = prefix + queue_key(lane_of, at_broker)
    return DelayedMessage(item_id, due, prefix + lane_of, list_key, said, replaces=replaces)


def delay_publication(bus: BusRuntime, validated: ValidatedEvent, due: datetime) -> DelayedMessage:
    """Let an event wait: `publish` takes it to whoever subscribes then. Each waits once, however often it is put."""
    event = validated.event
    # Whole, since it may wait for longer than contents are stored for.
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
    )


def send_due(bus: BusRuntime, *, ahead: timedelta = timedelta(0)) -> int:
    """Send what is due to its queues, a bounded part of it; return how many left. Safe in any number of workers.

    `ahead` of time, for tests. Raises BrokerUnavailable, and redis-py's errors where the state store is away.
    """
    if bus.publishes_atomically:
        return bus.stores.delayed_messages.move_due()
    lent = bus.stores.delayed_messages.claim_due(ahead=ahead)
    if not lent:
        return 0
    with open_producer(bus, "sending what was due") as outlet:
        for each in lent:
            # The ids stay: what is sent twice, because this worker dies here, is handled once.
            arguments, options = _parse_call(json.loads(each.message))
            outlet.send(bus.app.send_task, *arguments, queue=each.queue, **options)
            bus.stores.delayed_messages.confirm_sent(each)
    return len(lent)


def _parse_call(message: Any) -> tuple[tuple[str], dict[str, Any]]:
    """Read a message as the call of `send_task` that it stands for."""
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
