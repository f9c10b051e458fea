"""The fields of the delivery that this thread or asyncio task is at: every log record has them, whoever writes it.

event_id event_type stream_id correlation_id trace_id delivery_id subscription agent attempt
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar

from petiole.events.texts import safe_text

describe_delivery: ContextVar[Callable[[], Mapping[str, object]] | None] = ContextVar(
    "petiole_describe_delivery", default=None
)
"""Builds the fields. Few deliveries are logged, so it is called only for a log record."""


def read_trace_id(traceparent: str) -> str:
    """Return the trace's id in a traceparent of W3C Trace Context; other texts may come, too."""
    return safe_text(traceparent[3:35])


def read_delivery_fields() -> Mapping[str, object]:
    """Return the fields; none outside deliveries."""
    describe = describe_delivery.get()
    return describe() if describe is not None else {}
