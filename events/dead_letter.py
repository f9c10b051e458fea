"""DeadLetter: a delivery given up, kept with what it carried and why it went no further."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, JsonValue

from petiole.events.errors import error_type_of
from petiole.events.event import Moment

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
]
"""Why a delivery was given up.

failed: its handler failed as often as its policy allows; permanent: it failed in a way that no repetition mends;
poison: workers died of it; expired: it came too late, and its subscription keeps those; loop: too many causes in a row;
invalid: it breaks the schema of its type; payload: its content, which was stored elsewhere, is gone or altered;
unknown_type: of a type or version that no worker here knows; unknown_task: for a subscription that no worker here has;
undecodable: bytes that are no message.
"""


class Attempt(BaseModel):
    """One run of a handler that did not succeed; without an error, whoever ran it died."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Moment
    worker: str
    error_type: str | None = None
    error: str | None = None


class DeadLetter(BaseModel):
    """One delivery that no handler will see again unless somebody replays it.

    `id` stays the same when a replay fails again; `delivery_id` is of the last run. A delivery that could be read has
    its event as `document`; of another, `raw` holds all bytes that arrived, and `subscription` what they were for, as
    far as that could be told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    delivery_id: str
    subscription: str
    queue: str
    cause: Cause
    error_type: str
    error: str
    traceback: str
    fingerprint: str
    attempts: tuple[Attempt, ...]
    at: Moment
    document: JsonValue = None
    raw: Base64Bytes | None = None
    mailbox: str | None = None
    edited_from: str | None = None

    @property
    def buried_ms(self) -> int:
        """When it was buried last, in ms since 1970."""
        return int(self.at.timestamp() * 1_000)

    def attribute(self, name: str) -> str | None:
        """Read an attribute of the event that it carried, such as `event_type` or `stream_id`, where it has one."""
        found = self.document.get(name) if isinstance(self.document, Mapping) else None
        return found if isinstance(found, str) else None


def fingerprint(error: BaseException) -> str:
    """Name an error by its type and the function that raised it: the same for all that fail in the same way."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__')}.{trace.tb_frame.f_code.co_qualname}"
        trace = trace.tb_next
    return hashlib.sha256(f"{error_type_of(error)} in {place}".encode()).hexdigest()[:12]
