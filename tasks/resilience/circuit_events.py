"""Circuit events: what is told of a circuit breaker's changes, each once, by the process that made it.

    opened          system.circuit.opened, and the warning error.circuit_opened
    reopened        system.circuit.opened with `reopened`, where a probe failed: nobody is warned again
    half_opened     system.circuit.half_opened
    closed          system.circuit.closed

Their ids follow from circuit and epoch. A process that dies between the change and its event leaves it untold: the
state is right, and the next change is told.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
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
from petiole.tasks.instrumentation import CircuitChanged, OperationFailed
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.stores.circuits import CircuitChange

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

CIRCUIT_OPENED_ERROR = "error.circuit_opened"
MAX_ERROR_LENGTH = 500
"""How much of an error is shown."""


def publish_change(
    bus: BusRuntime, name: str, change: CircuitChange, *, by: str, error: BaseException | str | None = None
) -> None:
    """Publish a change of a circuit. Nothing fails because of it: it is logged, too."""
    bus.instrumentation.emit(CircuitChanged(circuit=name, change=change.transition, epoch=change.epoch, by=by))
    try:
        said = [validate(bus, event) for event in _events(name, change, by, error)]
        commit(bus, said, capacity_timeout=timedelta(0))
    except (BrokerUnavailable, StateStoreUnavailable, QueueFull, NotConfigured, RedisError) as failure:
        failed = OperationFailed(operation="circuit.publish_failed", exception=failure, subject=name)
        bus.instrumentation.emit(failed)


def process_name() -> str:
    """Name this process, as who made a change."""
    return f"{os.getpid()}@{socket.gethostname()}"


def _events(name: str, change: CircuitChange, by: str, error: BaseException | str | None) -> list[Event]:
    common: dict[str, Any] = {"circuit": name, "epoch": change.epoch, "by": by}
    if change.transition == "half_opened":
        return [_build_circuit_event(CircuitHalfOpenedEvent, CircuitContent(**common))]
    if change.transition == "closed":
        return [_build_circuit_event(CircuitClosedEvent, CircuitContent(**common))]
    reason = str(error) if error is None or isinstance(error, str) else f"{error_type_of(error)}: {error}"
    opening = CircuitOpenedContent(
        **common,
        failures=change.failures,
        error=reason[:MAX_ERROR_LENGTH] if error else None,
        retry_at=datetime.now(UTC) + change.wait if change.wait else None,
        reopened=change.transition == "reopened",
    )
    told = _build_circuit_event(CircuitOpenedEvent, opening)
    return [told] if opening.reopened else [told, _warning(told, opening)]


def _build_circuit_event(model: type[CircuitEvent], content: CircuitContent) -> CircuitEvent:
    return model.model_validate(
        {
            "event_id": str(uuid5(NAMESPACE_URL, repr(("circuit", content.circuit, content.epoch)))),
            "correlation_id": f"circuit {content.circuit}",
            "content": content,
        }
    )


def _warning(event: CircuitEvent, opening: CircuitOpenedContent) -> ErrorEvent:
    after = f"after {opening.failures} failures in a row" if opening.failures else "for now"
    content = ErrorContent(
        error_type="ServiceUnavailable",
        message=f"Circuit breaker open: {opening.circuit} is not called any more, {after}; last: {opening.error}",
        severity=Severity.WARNING,
        parameters={"circuit": opening.circuit, "failures": opening.failures},
    )
    return event.caused(ErrorEvent, event_type=CIRCUIT_OPENED_ERROR, content=content)
