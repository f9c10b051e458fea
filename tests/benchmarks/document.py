"""The event of the benchmark: 561 bytes of JSON, with its number and the time of its publication.

The peers publish `build_document(number)`, a dict, and validate it at each consumer with `Measured`. Petiole publishes
a typed event with the same fields (contestants/petiole_bus.py). Each event has a stream and a flow of its own.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict

TOPIC = "bench.event.published"
SOURCE = "benchmark"
TEXT = "x" * 49  # makes 561 bytes of an event with a number of four digits


class MeasuredContent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    sent_at: float  # of the machine's monotonic clock, which its processes share
    text: str


class Origin(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    user_id: str | None
    session_id: str | None
    extra: dict[str, object]


class Measured(BaseModel):
    """What a consumer of the peers validates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str
    event_type: str
    stream_id: str
    timestamp: AwareDatetime
    content: MeasuredContent
    context: Origin
    correlation_id: str
    causation_id: str | None
    traceparent: str
    hops: int
    path: tuple[str, ...]
    priority: int
    expires_at: AwareDatetime | None
    schema_version: int


def build_document(number: int) -> dict[str, object]:
    """Build the event with this number as its JSON, in the same form as Petiole writes it."""
    event_id = uuid4()
    return {
        "event_id": str(event_id),
        "event_type": TOPIC,
        "stream_id": f"stream-{number}",
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "content": {"number": number, "sent_at": time.monotonic(), "text": TEXT},
        "context": {"source": SOURCE, "user_id": None, "session_id": None, "extra": {}},
        "correlation_id": str(event_id),
        "causation_id": None,
        "traceparent": f"00-{event_id.hex}-{event_id.hex[:16]}-01",
        "hops": 0,
        "path": [],
        "priority": 5,
        "expires_at": None,
        "schema_version": 1,
    }
