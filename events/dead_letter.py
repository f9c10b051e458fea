"""DeadLetter: a delivery given up, kept with what it carried and why it went no further."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from events.event import Moment

Cause = Literal["failed", "invalid", "loop", "payload"]
"""failed: its handler raised; invalid: it is no event of a known type; loop: too many causes in a row;
payload: its content, which was stored elsewhere, is gone or altered."""


class DeadLetter(BaseModel):
    """One delivery that no handler will see again unless somebody replays it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delivery_id: str
    subscription: str
    cause: Cause
    error_type: str
    error: str
    traceback: str
    attempts: int
    at: Moment
    document: JsonValue
    """The event's JSON object, as it arrived."""
