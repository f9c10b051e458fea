"""DeadLetter: a delivery that was given up, stored with its event and the cause."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, JsonValue

from petiole.events.errors import error_type_of
from petiole.events.event import UtcDatetime
from petiole.events.texts import safe_text

Cause = Literal[
    "failed",
    "permanent",
    "poison",
    "expired",
    "loop",
    "invalid",
    "payload",
    "unknown_type",
    "unknown_task",
    "undecodable",
    "forbidden",
]
"""Why a delivery became a dead letter.

    failed          the handler failed in all attempts that the retry policy allows
    permanent       the handler raised an error that a retry cannot fix
    poison          worker processes died while they handled it
    expired         it expired, and the subscription keeps expired deliveries
    loop            the event exceeded the hop limit
    invalid         the event breaks the schema of its type
    payload         the event's stored content is missing or was altered
    unknown_type    no worker knows the event's type or schema version
    unknown_task    no worker has the subscription
    undecodable     the message cannot be decoded
    forbidden       its publisher may not publish it, or did not sign it
"""


class FailedAttempt(BaseModel):
    """One failed attempt of a handler. It has no error if the worker process died."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    at: UtcDatetime
    worker: str
    error_type: str | None = None
    error: str | None = None


class DeadLetter(BaseModel):
    """A delivery that was given up. No handler gets it again unless an operator replays it.

    `id` does not change when a replay fails; `delivery_id` is that of the last attempt. `document` has the event. If
    the message could not be decoded, `raw` has its bytes instead, and `subscription` is the target if it is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    id: str
    delivery_id: str
    subscription: str
    queue: str
    cause: Cause
    error_type: str
    error: str
    traceback: str
    fingerprint: str
    attempts: tuple[FailedAttempt, ...]
    at: UtcDatetime
    document: JsonValue = None
    raw: Base64Bytes | None = None
    message_group: str | None = None
    edited_from: str | None = None

    @property
    def dead_lettered_at_ms(self) -> int:
        """The time of the last dead-lettering, in ms since 1970."""
        return int(self.at.timestamp() * 1_000)

    def event_attribute(self, name: str) -> str | None:
        """Return an attribute of the event, such as `event_type` or `stream_id`; None if it has none."""
        value = self.document.get(name) if isinstance(self.document, Mapping) else None
        return value if isinstance(value, str) else None


def fingerprint(error: BaseException) -> str:
    """Hash an error's type and the function that raised it, to group dead letters with the same failure."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f"{safe_text(trace.tb_frame.f_globals.get('__name__'))}.{trace.tb_frame.f_code.co_qualname}"
        trace = trace.tb_next
    return hashlib.sha256(f"{error_type_of(error)} in {place}".encode("utf-8", "backslashreplace")).hexdigest()[:12]
