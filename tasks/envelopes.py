"""Envelopes: deliveries as the very messages that Celery would have sent, at a tenth of the price.

`Task.apply_async` spends 200 us on each message: it renders its arguments for display, copies options, binds queues,
and encodes the body anew for each subscription. Here the body is encoded once for an event, and a message is one string
made around it. The form is Celery's task protocol 2 in kombu's JSON for Redis, field by field; a worker cannot tell the
difference, and tests/contracts/test_envelopes.py holds the two against each other.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import cache
from uuid import uuid4

from celery.utils.nodenames import anon_nodename
from kombu.transport.redis import PRIORITY_STEPS

from tasks.routing import Route
from tasks.stores.publications import Message
from tasks.wire import broker_priority

MAILBOX_HEADER = "petiole_mailbox"
"""The header of an ordered delivery that names its mailbox; other messages have none that Celery's have not."""

DEAD_LETTER_HEADER = "petiole_dead_letter"
"""The header of a replayed dead letter's message that holds the letter's id."""

_PRIORITY_SEPARATOR = "\x06\x16"

_HEAD = (
    '{{"content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "{task}", '
    '"id": "{id}", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, '
    '"timelimit": [null, null], "root_id": "{id}", "parent_id": null, "argsrepr": "{shown}", "kwargsrepr": "", '
    '"origin": "{origin}", "ignore_result": true, "replaced_task_nesting": 0, "stamped_headers": null, '
    '"stamps": {{}}{more}}}, "properties": {{"correlation_id": "{id}", "reply_to": "", "delivery_mode": 2, '
    '"delivery_info": {{"exchange": "", "routing_key": "{queue}"}}, "priority": {priority}, '
    '"body_encoding": "base64", "delivery_tag": "{tag}"}}, "body": "'
)


def seal(
    routes: Sequence[Route],
    mailboxes: Sequence[str | None],
    *,
    event_type: str,
    key_prefix: str = "",
) -> list[Message]:
    """Make the messages of an event's deliveries but for their body, each for its mailbox.

    No name in them needs escaping: topics, agents, functions and ids are of letters, digits, '_', '-' and '.'.
    """
    # Kombu keeps what is under way by its tag: two messages must not share one, not even two of one delivery.
    publication = uuid4()
    return [
        _sealed(route, event_type, key_prefix, tag=f"{publication}-{number}", mailbox=mailbox)
        for number, (route, mailbox) in enumerate(zip(routes, mailboxes, strict=True))
    ]


def _sealed(route: Route, event_type: str, key_prefix: str, *, tag: str, mailbox: str | None) -> Message:
    priority = broker_priority(route.priority, "redis")
    subscription = route.subscription
    head = _HEAD.format(
        task=subscription.name,
        id=route.delivery_id,
        shown=event_type,
        origin=_origin(),
        queue=subscription.queue,
        priority=priority,
        tag=tag,
        more=f', "{MAILBOX_HEADER}": {json.dumps(mailbox)}' if mailbox else "",
    )
    return Message(
        queue=key_prefix + subscription.queue,
        queue_key=key_prefix + queue_key(subscription.queue, priority),
        head=head,
        delivery_id=route.delivery_id,
        mailbox=mailbox,
        capacity=subscription.capacity or 0,
        drops_oldest=subscription.overflow == "drop_oldest",
    )


def envelope(
    task: str,
    delivery_id: str,
    *,
    queue: str,
    priority: int,
    shown: str,
    text: str,
    headers: Mapping[str, str],
) -> str:
    """Make a whole message of a task whose only argument is that JSON text; names may be any text."""
    head = _HEAD.format(
        task=_escaped(task),
        id=_escaped(delivery_id),
        shown=_escaped(shown),
        origin=_origin(),
        queue=_escaped(queue),
        priority=priority,
        tag=uuid4(),
        more="".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in headers.items()),
    )
    return head + tail_of(text)


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def tail_of(text: str) -> str:
    """Encode the body that all messages of an event share: the event's JSON text as the task's only argument."""
    body = f'[[{text}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]'
    return base64.b64encode(body.encode()).decode("ascii") + '"}'


def queue_key(queue: str, priority: int) -> str:
    """Name the list that kombu keeps a queue's messages of that priority in."""
    step = PRIORITY_STEPS[bisect(PRIORITY_STEPS, priority) - 1]
    return f"{queue}{_PRIORITY_SEPARATOR}{step}" if step else queue


@cache
def _origin() -> str:
    return str(anon_nodename())
