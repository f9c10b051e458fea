"""Events about circuit breakers: each change of state is published once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Text
from petiole.events.event import MAX_PRIORITY, Category, Event, UtcDatetime
from petiole.events.ids import SYSTEM_STREAM, StreamId


class CircuitContent(Content):
    """The circuit and its epoch, which each change increases. `by` is the worker or operator that made the change."""

    circuit: Text
    epoch: Count
    by: Text | None = None


class CircuitOpenedContent(CircuitContent):
    """Why the circuit opened.

    `retry_at` is when a probe is allowed; None if an operator has to close the circuit. `reopened` is True if a probe
    failed.
    """

    failures: Count = 0
    error: Text | None = None
    retry_at: UtcDatetime | None = None
    reopened: bool = False


class CircuitEvent(Event):
    """Base class of the events about circuit breakers."""

    category: ClassVar[Category] = Category.SYSTEM
    stream_id: StreamId = SYSTEM_STREAM
    content: CircuitContent
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MAX_PRIORITY


class CircuitOpenedEvent(CircuitEvent):
    """A dependency failed too often, and calls to it are rejected for a while."""

    event_type: Literal["system.circuit.opened"] = "system.circuit.opened"
    content: CircuitOpenedContent


class CircuitHalfOpenedEvent(CircuitEvent):
    """One caller probes whether a dependency has recovered."""

    event_type: Literal["system.circuit.half_opened"] = "system.circuit.half_opened"


class CircuitClosedEvent(CircuitEvent):
    """A dependency has recovered, and calls to it are allowed again."""

    event_type: Literal["system.circuit.closed"] = "system.circuit.closed"
