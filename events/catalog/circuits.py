"""What is said of circuit breakers: each change of state, once, whoever made it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Text
from petiole.events.event import MAX_PRIORITY, Category, Event, UtcDatetime
from petiole.events.ids import SYSTEM_STREAM, StreamId


class CircuitContent(Content):
    """Which dependency's circuit took a step; each step begins an epoch. `by` is the worker or person that made it."""

    circuit: Text
    epoch: Count
    by: Text | None = None


class CircuitOpenedContent(CircuitContent):
    """Why it is not called any more, and until when; None where that is until someone closes it.

    One that a probe `reopened` had not been closed since.
    """

    failures: Count = 0
    error: Text | None = None
    retry_at: UtcDatetime | None = None
    reopened: bool = False


class CircuitEvent(Event):
    """Base of what is said of circuits."""

    category: ClassVar[Category] = Category.SYSTEM
    stream_id: StreamId = SYSTEM_STREAM
    content: CircuitContent
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MAX_PRIORITY


class CircuitOpenedEvent(CircuitEvent):
    """A dependency failed too often: for a while nobody calls it."""

    event_type: Literal["system.circuit.opened"] = "system.circuit.opened"
    content: CircuitOpenedContent


class CircuitHalfOpenedEvent(CircuitEvent):
    """One caller tries whether a dependency is back."""

    event_type: Literal["system.circuit.half_opened"] = "system.circuit.half_opened"


class CircuitClosedEvent(CircuitEvent):
    """A dependency is called again."""

    event_type: Literal["system.circuit.closed"] = "system.circuit.closed"
