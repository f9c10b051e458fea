"""Events about circuit breakers. The process that changes a circuit's state publishes one event for the change.

    opened          system.circuit.opened, and the warning error.circuit_opened
    reopened        system.circuit.opened with `reopened`, after a failed probe; without another warning
    half_opened     system.circuit.half_opened
    closed          system.circuit.closed

An event's id is derived from circuit and epoch. If the process dies between the change and the event, the event is
missing; the state is correct, and the next change is published.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from redis.exceptions import RedisError

from petiole.events.catalog.circuits import (
    CircuitClosedEvent,
    CircuitContent,
    CircuitEvent,
    CircuitHalfOpenedEvent,
    CircuitOpenedContent,
    CircuitOpenedEvent,
)
from petiole.events.catalog.error import ErrorContent, ErrorEvent
from petiole.events.errors import (
    BrokerUnavailable,
    NotConfigured,
    QueueFull,
    Severity,
    StateStoreUnavailable,
    error_type_of,
)
from petiole.events.event import Event
from petiole.events.texts import error_text
from petiole.tasks.instrumentation import CircuitChanged, OperationFailed
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.stores.circuits import CircuitChange

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

CIRCUIT_OPENED_ERROR = "error.circuit_opened"
MAX_ERROR_LENGTH = 500
"""The most characters of an error in an event."""


def publish_change(
    bus: BusRuntime, name: str, change: CircuitChange, *, by: str, error: BaseException | str | None = None
) -> None:
    """Log and publish a change of a circuit. An outage of the broker or state store is logged, not raised."""
    bus.instrumentation.emit(CircuitChanged(circuit=name, change=change.transition, epoch=change.epoch, by=by))
    try:
        events = [validate(bus, event) for event in _events(bus, name, change, by, error)]
        commit(bus, events, capacity_timeout=timedelta(0))
    except (BrokerUnavailable, StateStoreUnavailable, QueueFull, NotConfigured, RedisError) as failure:
        failed = OperationFailed(operation="circuit.publish_failed", exception=failure, subject=name)
        bus.instrumentation.emit(failed)


def process_name() -> str:
    """Return the name of this process, as `pid@host`."""
    return f"{os.getpid()}@{socket.gethostname()}"


def _events(
    bus: BusRuntime, name: str, change: CircuitChange, by: str, error: BaseException | str | None
) -> list[Event]:
    common: dict[str, Any] = {"circuit": name, "epoch": change.epoch, "by": by}
    if change.transition == "half_opened":
        return [_build_circuit_event(CircuitHalfOpenedEvent, CircuitContent(**common))]
    if change.transition == "closed":
        return [_build_circuit_event(CircuitClosedEvent, CircuitContent(**common))]
    reason = str(error) if error is None or isinstance(error, str) else f"{error_type_of(error)}: {error_text(error)}"
    opening = CircuitOpenedContent(
        **common,
        failures=change.failures,
        error=reason[:MAX_ERROR_LENGTH] if error else None,
        retry_at=bus.now() + change.wait if change.wait else None,
        reopened=change.transition == "reopened",
    )
    opened = _build_circuit_event(CircuitOpenedEvent, opening)
    return [opened] if opening.reopened else [opened, _build_warning(opened, opening)]


def _build_circuit_event(model: type[CircuitEvent], content: CircuitContent) -> CircuitEvent:
    return model.model_validate(
        {
            "event_id": str(uuid5(NAMESPACE_URL, repr(("circuit", content.circuit, content.epoch)))),
            "correlation_id": f"circuit {content.circuit}",
            "content": content,
        }
    )


def _build_warning(event: CircuitEvent, opening: CircuitOpenedContent) -> ErrorEvent:
    after = f"after {opening.failures} failures in a row" if opening.failures else "for now"
    content = ErrorContent(
        error_type="ServiceUnavailable",
        message=f"Circuit breaker open: {opening.circuit} is no longer called, {after}; last error: {opening.error}",
        severity=Severity.WARNING,
        parameters={"circuit": opening.circuit, "failures": opening.failures},
    )
    return event.caused(ErrorEvent, event_type=CIRCUIT_OPENED_ERROR, content=content)
