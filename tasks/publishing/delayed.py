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

from petiole.tasks.broker.messages import message, queue_key
from petiole.tasks.broker.producer import sending
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK, broker_priority, lane
from petiole.tasks.publishing.document import Admitted
from petiole.tasks.stores.delayed_messages import Waiting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from petiole.tasks.runtime import BusRuntime

log = logging.getLogger(__name__)


def waiting(
    bus: BusRuntime,
    task: str,
    text: str,
    *,
    item_id: str,
    task_id: str,
    due: datetime,
    queue: str,
    priority: int,
    shown: str = "",
    retries: int = 0,
    headers: Mapping[str, str | None] | None = None,
    replaces: bool = False,
) -> Waiting:
    """Make a message that waits: a task call whose argument is an event's JSON text; our priority, 9 first."""
    lane_of, at_broker = lane(queue, priority, bus.driver), broker_priority(priority, bus.driver)
    said = message(
        task,
        text,
        delivery_id=task_id,
        queue=lane_of,
        priority=at_broker,
        shown=shown,
        retries=retries,
        headers=headers or {},
    )
    prefix = bus.queue_prefix
    list_key = prefix + queue_key(lane_of, at_broker)
    return Waiting(item_id, due, prefix + lane_of, list_key, said, replaces=replaces)


def publication(bus: BusRuntime, admitted: Admitted, due: datetime) -> Waiting:
    """Let an event wait: `publish` takes it to whoever subscribes then. Each waits once, however often it is put."""
    event = admitted.event
    # Whole, since it may wait for longer than contents are stored for.
    text = admitted.text if admitted.payload is None else json.dumps(admitted.document, ensure_ascii=False)
    return waiting(
        bus,
        PUBLISH_TASK,
        text,
        item_id=f"publish:{event.event_id}",
        task_id=event.event_id,
        due=due,
        queue=PUBLISH_QUEUE,
        priority=event.priority,
        shown=event.event_type,
    )


def move_due(bus: BusRuntime, *, ahead: timedelta = timedelta(0)) -> int:
    """Send what is due to its queues, a bounded part of it; return how many left. Safe in any number of workers.

    `ahead` of time, for tests. Raises BrokerUnavailable, and redis-py's errors where the state store is away.
    """
    if bus.publishes_in_one_step:
        return bus.stores.delays.move_due()
    lent = bus.stores.delays.lend_due(ahead=ahead)
    if not lent:
        return 0
    with sending(bus, "sending what was due") as outlet:
        for each in lent:
            # The ids stay: what is sent twice, because this worker dies here, is handled once.
            arguments, options = _call(json.loads(each.message))
            outlet.send(bus.app.send_task, *arguments, queue=each.queue, **options)
            bus.stores.delays.forget(each)
    return len(lent)


def _call(said: Any) -> tuple[tuple[str], dict[str, Any]]:
    """Read a message as the call of `send_task` that it stands for."""
    headers, properties = said["headers"], said["properties"]
    args, kwargs, _ = json.loads(base64.b64decode(said["body"]))
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
