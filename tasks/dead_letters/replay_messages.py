"""The message of a replay: what is sent when a dead letter is delivered again.

    a letter with an event      a delivery of its subscription, or of `petiole.publish` where it was a publication
    a letter with raw bytes     the message they are, as it came; bytes that are no message are refused

Each has an id of its own, which follows from the letter and the number of the replay, and two headers that say what it
is. So a worker's inbox does not take it for the delivery that failed, and knows it where it is sent twice.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import CannotReplay
from petiole.events.event import LEAST_URGENT, MOST_URGENT
from petiole.events.ids import letter_delivery_id
from petiole.tasks.broker.messages import DEAD_LETTER_HEADER, MAILBOX_HEADER, REPLAY_HEADER, message, queue_key
from petiole.tasks.broker.topology import broker_priority, lane
from petiole.tasks.stores.blobs import DATAREF, blob_of
from petiole.tasks.stores.dead_letters import Start

if TYPE_CHECKING:
    from petiole.tasks.broker.producer import Outlet
    from petiole.tasks.runtime import BusRuntime

_USUAL_PRIORITY = 5


@dataclass(frozen=True, slots=True)
class Again:
    """The n-th replay of a letter: its delivery, and the message that its bytes are, if it has no event."""

    letter: DeadLetter
    number: int
    message: dict[str, Any] | None = None

    @property
    def delivery_id(self) -> str:
        """The same each time it is sent."""
        return letter_delivery_id(self.letter.id, self.number)

    @property
    def headers(self) -> dict[str, str]:
        """What tells whoever gets it that this is a letter's replay."""
        return {DEAD_LETTER_HEADER: self.letter.id, REPLAY_HEADER: f"{self.letter.id}:{self.number}"}


def again(letter: DeadLetter, number: int) -> Again:
    """Make the n-th replay of a letter. Raises CannotReplay for bytes that are no message."""
    if letter.raw is None:
        if not letter.queue:
            raise CannotReplay(letter.id, "it names no queue to send it to; edit it: petiole dead-letters edit ID")
        return Again(letter, number)
    message = _message_in(letter.raw)
    if message is None:
        advice = "give the event that was meant: petiole dead-letters edit ID --file event.json"
        raise CannotReplay(letter.id, f"its {len(letter.raw):,} bytes are no message; {advice}")
    if not (letter.queue or _queue_in(message)):
        raise CannotReplay(letter.id, "neither it nor its message names a queue; edit it: petiole dead-letters edit ID")
    return Again(letter, number, message)


def start_of(bus: BusRuntime, replay: Again) -> Start:
    """Make what begins a replay; with its message where the broker and the state store are one."""
    if not bus.publishes_in_one_step:
        return Start(replay.letter.id, replay.number, replay.delivery_id)
    queue, priority, text = _raw(replay) if replay.message else _delivery(bus, replay)
    return Start(
        replay.letter.id,
        replay.number,
        replay.delivery_id,
        queue=bus.queue_prefix + queue,
        queue_key=bus.queue_prefix + queue_key(queue, priority),
        message=text,
        mailbox=None if replay.message else replay.letter.mailbox,
    )


def send(bus: BusRuntime, replay: Again, outlet: Outlet) -> None:
    """Send a replay that has begun; on brokers that are not the state store. Raises what Celery raises."""
    if replay.message:
        _send_raw(replay, outlet)
        return
    letter = replay.letter
    priority = _priority(letter)
    outlet.send(
        bus.app.send_task,
        letter.subscription,
        args=(json.loads(_travelling(bus, letter)),),
        task_id=replay.delivery_id,
        queue=lane(letter.queue, priority, bus.driver),
        priority=broker_priority(priority, bus.driver),
        headers=replay.headers,
        ignore_result=True,
        argsrepr=_shown(letter),
        kwargsrepr="",
    )


def _delivery(bus: BusRuntime, replay: Again) -> tuple[str, int, str]:
    letter = replay.letter
    priority = broker_priority(_priority(letter), bus.driver)
    ordered = {MAILBOX_HEADER: letter.mailbox} if letter.mailbox else {}
    text = message(
        letter.subscription,
        _travelling(bus, letter),
        delivery_id=replay.delivery_id,
        queue=letter.queue,
        priority=priority,
        shown=_shown(letter),
        headers=replay.headers | ordered,
    )
    return letter.queue, priority, text


def _raw(replay: Again) -> tuple[str, int, str]:
    whole = _with_our_headers(replay)
    # A tag of its own: kombu keeps what is under way by it.
    whole["properties"] = whole["properties"] | {"delivery_tag": str(uuid4())}
    priority = whole["properties"].get("priority")
    urgency = priority if isinstance(priority, int) and LEAST_URGENT <= priority <= MOST_URGENT else LEAST_URGENT
    return replay.letter.queue or str(_queue_in(whole)), urgency, json.dumps(whole)


def _send_raw(replay: Again, outlet: Outlet) -> None:
    message = _with_our_headers(replay)
    properties, body = message["properties"], message["body"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    kept = {name: properties[name] for name in ("reply_to", "correlation_id", "priority") if properties.get(name)}
    outlet.send(
        _publish,
        body,
        content_type=message.get("content-type"),
        content_encoding=message.get("content-encoding"),
        headers=message["headers"],
        exchange="",
        routing_key=replay.letter.queue or _queue_in(message),
        **kept,
    )


def _publish(body: object, *, producer: Any, **options: Any) -> None:
    options.pop("exchange_type", None)  # Celery's, which names no exchange either
    producer.publish(body, **options)


def _with_our_headers(replay: Again) -> dict[str, Any]:
    message = dict(replay.message or {})
    headers = {name: value for name, value in message["headers"].items() if name != "petiole_lease"}
    message["headers"] = headers | replay.headers | ({"id": replay.delivery_id} if "id" in headers else {})
    return message


def _message_in(raw: bytes) -> dict[str, Any] | None:
    """Read a message as kombu writes it for Redis: body, headers, properties."""
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    is_one = (
        isinstance(message, dict)
        and isinstance(message.get("body"), str)
        and isinstance(message.get("headers"), dict)
        and isinstance(message.get("properties"), dict)
    )
    return message if is_one else None


def _queue_in(message: Mapping[str, Any]) -> str | None:
    route = message["properties"].get("delivery_info")
    found = route.get("routing_key") if isinstance(route, Mapping) else None
    return found if isinstance(found, str) and found else None


def _priority(letter: DeadLetter) -> int:
    found = letter.document.get("priority") if isinstance(letter.document, Mapping) else None
    is_one = isinstance(found, int) and not isinstance(found, bool) and LEAST_URGENT <= found <= MOST_URGENT
    return found if is_one and isinstance(found, int) else _USUAL_PRIORITY


def _shown(letter: DeadLetter) -> str:
    return letter.attribute("event_type") or letter.attribute("type") or "-"


def _travelling(bus: BusRuntime, letter: DeadLetter) -> str:
    """Write the event as it travels: what is too large stays behind once more, see payloads.py."""
    document = letter.document
    # As ASCII: what was given up may hold half surrogate pairs, which are no UTF-8.
    text = json.dumps(document, separators=(",", ":"))
    is_ours = isinstance(document, Mapping) and "content" in document and "specversion" not in document
    if len(text) <= bus.settings.claim_check_threshold_bytes or not is_ours or not isinstance(document, Mapping):
        return text
    blob = blob_of(document["content"])
    bus.stores.blobs.put([blob])
    attributes = {name: value for name, value in document.items() if name != "content"}
    return json.dumps(attributes | {DATAREF: blob.reference}, separators=(",", ":"))
