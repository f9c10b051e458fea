"""Messages: build the messages of delayed task calls, as Celery would have sent them.

A message is one formatted string around its body. The format is Celery's task protocol 2 in kombu's JSON for Redis,
field by field; tests/contracts/test_messages.py compares the two.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from uuid import uuid4

from celery.utils.nodenames import anon_nodename
from kombu.transport.redis import PRIORITY_STEPS

_PRIORITY_SEPARATOR = "\x06\x16"

# {…} is filled once per task, queue and priority, %(…)s for each message.
_MESSAGE_TEMPLATE = (
    '{{"content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "{task}", '
    '"id": "%(id)s", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, '
    '"retries": %(retries)s, "timelimit": [null, null], "root_id": "%(id)s", "parent_id": null, "argsrepr": "{shown}", '
    '"kwargsrepr": "", '
    '"origin": "{origin}", "ignore_result": true, "replaced_task_nesting": 0, "stamped_headers": null, '
    '"stamps": {{}}%(more)s}}, "properties": {{"correlation_id": "%(id)s", "reply_to": "", "delivery_mode": 2, '
    '"delivery_info": {{"exchange": "", "routing_key": "{queue}"}}, "priority": {priority}, '
    '"body_encoding": "base64", "delivery_tag": "%(tag)s"}}, "body": "'
)

_TEMPLATE_CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class _MessageTemplate:
    """The common part of a task's messages to one queue with one priority."""

    queue_key: str
    head: str


@lru_cache(_TEMPLATE_CACHE_SIZE)
def _build_template(task: str, queue: str, event_type: str, priority: int) -> _MessageTemplate:
    names = {"task": task, "shown": event_type, "queue": queue}
    escaped = {field: _escape(name).replace("%", "%%") for field, name in names.items()}
    head = _MESSAGE_TEMPLATE.format(**escaped, origin=_origin(), priority=priority)
    return _MessageTemplate(queue_key(queue, priority), head)


def _encode_body(text: str) -> str:
    """Encode the body of a message: the event's JSON text as the task's only argument."""
    body = f'[[{text}], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]'
    return base64.b64encode(body.encode()).decode("ascii") + '"}'


def build_message(
    task: str,
    text: str,
    *,
    delivery_id: str,
    queue: str,
    priority: int,
    displayed_arguments: str = "",
    retries: int = 0,
    headers: Mapping[str, str | None] = MappingProxyType({}),
) -> str:
    """Build the message of one task call whose only argument is a JSON text. `priority` is the broker's."""
    head = _build_template(task, queue, displayed_arguments, priority).head
    return head % {
        "id": _escape(delivery_id),
        "tag": uuid4(),
        "retries": retries,
        "more": _format_headers(headers),
    } + _encode_body(text)


def _escape(name: str) -> str:
    return json.dumps(name)[1:-1]


def _format_headers(headers: Mapping[str, str | None]) -> str:
    return "".join(f', "{name}": {json.dumps(value)}' for name, value in headers.items() if value is not None)


def queue_key(queue: str, priority: int) -> str:
    """Return the key of the list in which kombu stores a queue's messages of that priority."""
    step = PRIORITY_STEPS[bisect(PRIORITY_STEPS, priority) - 1]
    return f"{queue}{_PRIORITY_SEPARATOR}{step}" if step else queue


@cache
def _origin() -> str:
    return str(anon_nodename())


def replay_number(replay_id: str | None) -> int | None:
    """Parse the number of a dead letter's replay from its header, `<letter>:<number>`; None for another replay."""
    number = (replay_id or "").rpartition(":")[2]
    return int(number) if number.isdecimal() else None
