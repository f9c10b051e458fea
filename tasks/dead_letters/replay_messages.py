"""Build and send the message of a dead letter's replay.

    a letter with an event      becomes a delivery to its subscription, or to `petiole.publish` if publishing failed
    a letter with raw bytes     becomes the original message; bytes that cannot be parsed as a message are refused

The delivery id is derived from the letter and the number of the replay, and two headers mark it as a replay. So the
inbox does not skip it as a duplicate of the failed delivery, and skips it if it is sent twice.
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
from petiole.events.event import MAX_PRIORITY, MIN_PRIORITY
from petiole.events.ids import letter_delivery_id
from petiole.events.texts import parse_json
from petiole.tasks.broker.topology import DUE_HEADER, broker_priority, broker_queue
from petiole.tasks.stores.blobs import DATAREF, build_blob
from petiole.tasks.stores.dead_letters import ReplayStart
from petiole.tasks.stores.deliveries import DEAD_LETTER_HEADER, REPLAY_HEADER, QueueEntry, queue_list
from petiole.tasks.stores.keys import Keys

if TYPE_CHECKING:
    from petiole.tasks.broker.producer import ConfirmingProducer
    from petiole.tasks.runtime import BusRuntime

_DEFAULT_PRIORITY = 5


@dataclass(frozen=True, slots=True)
class LetterReplay:
    """The n-th replay of a letter; `message` is set if the letter holds raw bytes instead of an event."""

    letter: DeadLetter
    number: int
    message: dict[str, Any] | None = None

    @property
    def delivery_id(self) -> str:
        """Delivery id, the same each time this replay is sent."""
        return letter_delivery_id(self.letter.id, self.number)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that mark a message as this replay."""
        return {DEAD_LETTER_HEADER: self.letter.id, REPLAY_HEADER: f"{self.letter.id}:{self.number}"}


def build_replay(letter: DeadLetter, number: int) -> LetterReplay:
    """Build the n-th replay of a letter. Raises CannotReplay for bytes that cannot be parsed."""
    if letter.raw is None:
        if not letter.queue:
            raise CannotReplay(letter.id, "it names no queue to send it to; edit it: petiole dead-letters edit ID")
        return LetterReplay(letter, number)
    message = _parse_message(letter.raw)
    if message is None:
        advice = "give the event that was meant: petiole dead-letters edit ID --file event.json"
        raise CannotReplay(letter.id, f"its {len(letter.raw):,} bytes cannot be parsed as a message; {advice}")
    if not (letter.queue or _read_queue(message)):
        raise CannotReplay(letter.id, "neither it nor its message names a queue; edit it: petiole dead-letters edit ID")
    return LetterReplay(letter, number, message)


def build_replay_start(bus: BusRuntime, replay: LetterReplay) -> ReplayStart:
    """Build the start of a replay, with its queue entry if broker and state store are the same Redis."""
    if not bus.publishes_atomically:
        return ReplayStart(replay.letter.id, replay.number)
    queue, priority, entry = _build_raw_entry(replay) if replay.message else _build_event_entry(bus, replay)
    group = None if replay.message else replay.letter.message_group
    list_key = queue_list(Keys(bus.settings.key_prefix), queue, priority)
    return ReplayStart(replay.letter.id, replay.number, list_key, entry.text, group)


def send_replay(bus: BusRuntime, replay: LetterReplay, producer: ConfirmingProducer) -> None:
    """Send a started replay on brokers other than the state store. Raises what Celery raises."""
    if replay.message:
        _send_raw(replay, producer)
        return
    letter = replay.letter
    priority = _priority(letter)
    producer.send(
        bus.app.send_task,
        letter.subscription,
        args=(json.loads(_build_payload(bus, letter)),),
        task_id=replay.delivery_id,
        queue=broker_queue(letter.queue, priority, bus.driver),
        priority=broker_priority(priority, bus.driver),
        headers={**replay.headers, DUE_HEADER: bus.now().isoformat()},
        ignore_result=True,
        argsrepr=_displayed_arguments(letter),
        kwargsrepr="",
    )


def _build_event_entry(bus: BusRuntime, replay: LetterReplay) -> tuple[str, int, QueueEntry]:
    letter = replay.letter
    options: dict[str, Any] = {
        "id": replay.delivery_id,
        "letter": letter.id,
        "replay": replay.headers[REPLAY_HEADER],
        "due": int(bus.now().timestamp() * 1_000),
    }
    if letter.message_group:
        options["group"] = letter.message_group
    entry = QueueEntry("", letter.subscription, options=options, body=_build_payload(bus, letter).encode())
    return letter.queue, _priority(letter), entry


def _build_raw_entry(replay: LetterReplay) -> tuple[str, int, QueueEntry]:
    message = _add_headers(replay)
    # A new tag: stock clients of kombu store unacknowledged messages by tag.
    message["properties"] = message["properties"] | {"delivery_tag": str(uuid4())}
    priority = message["properties"].get("priority")
    urgency = priority if isinstance(priority, int) and MIN_PRIORITY <= priority <= MAX_PRIORITY else MIN_PRIORITY
    queue = replay.letter.queue or str(_read_queue(message))
    return queue, MAX_PRIORITY - urgency, QueueEntry("", "", body=json.dumps(message).encode())


def _send_raw(replay: LetterReplay, producer: ConfirmingProducer) -> None:
    message = _add_headers(replay)
    properties, body = message["properties"], message["body"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    options = {name: properties[name] for name in ("reply_to", "correlation_id", "priority") if properties.get(name)}
    producer.send(
        _publish,
        body,
        content_type=message.get("content-type"),
        content_encoding=message.get("content-encoding"),
        headers=message["headers"],
        exchange="",
        routing_key=replay.letter.queue or _read_queue(message),
        **options,
    )


def _publish(body: object, *, producer: Any, **options: Any) -> None:
    options.pop("exchange_type", None)  # added by Celery; meaningless for the default exchange
    producer.publish(body, **options)


def _add_headers(replay: LetterReplay) -> dict[str, Any]:
    message = dict(replay.message or {})
    headers = {name: value for name, value in message["headers"].items() if name != "petiole_consumer"}
    message["headers"] = headers | replay.headers | ({"id": replay.delivery_id} if "id" in headers else {})
    return message


def _parse_message(raw: bytes) -> dict[str, Any] | None:
    """Parse a message as kombu writes it to Redis: body, headers, properties. None if it is not one."""
    try:
        message = parse_json(raw)
    except (ValueError, RecursionError):
        return None
    is_one = (
        isinstance(message, dict)
        and isinstance(message.get("body"), str)
        and isinstance(message.get("headers"), dict)
        and isinstance(message.get("properties"), dict)
    )
    return message if is_one else None


def _read_queue(message: Mapping[str, Any]) -> str | None:
    route = message["properties"].get("delivery_info")
    queue = route.get("routing_key") if isinstance(route, Mapping) else None
    return queue if isinstance(queue, str) and queue else None


def _priority(letter: DeadLetter) -> int:
    found = letter.document.get("priority") if isinstance(letter.document, Mapping) else None
    is_one = isinstance(found, int) and not isinstance(found, bool) and MIN_PRIORITY <= found <= MAX_PRIORITY
    return found if is_one and isinstance(found, int) else _DEFAULT_PRIORITY


def _displayed_arguments(letter: DeadLetter) -> str:
    return letter.event_attribute("event_type") or letter.event_attribute("type") or "-"


def _build_payload(bus: BusRuntime, letter: DeadLetter) -> str:
    """Encode the event for a message; large content is stored as a blob again (tasks/publishing/claim_check.py)."""
    document = letter.document
    # ASCII only: a dead letter may hold lone surrogates, which UTF-8 cannot encode.
    text = json.dumps(document, separators=(",", ":"))
    is_ours = isinstance(document, Mapping) and "content" in document and "specversion" not in document
    if len(text) <= bus.settings.claim_check_threshold_bytes or not is_ours or not isinstance(document, Mapping):
        return text
    blob = build_blob(document["content"])
    bus.stores.blobs.put([blob])
    attributes = {name: value for name, value in document.items() if name != "content"}
    return json.dumps(attributes | {DATAREF: blob.reference}, separators=(",", ":"))
