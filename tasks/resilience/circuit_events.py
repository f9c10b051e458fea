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
    CircuitEvent,
    CircuitHalfOpenedEvent,
    CircuitOpenedEvent,
    CircuitOpening,
    CircuitStep,
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
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.validation import checked
from petiole.tasks.stores.circuits import Noted

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

OPENED_ERROR = "error.circuit_opened"
SHOWN_LENGTH = 500
"""How much of an error is shown."""


def tell(bus: BusRuntime, name: str, noted: Noted, *, by: str, error: BaseException | str | None = None) -> None:
    """Publish a change of a circuit. Nothing fails because of it: it is logged, too."""
    bus.instrumentation.emit(CircuitChanged(circuit=name, change=noted.change, epoch=noted.epoch, by=by))
    try:
        said = [checked(bus, event) for event in _events(name, noted, by, error)]
        dispatch(bus, said, patience=timedelta(0))
    except (BrokerUnavailable, StateStoreUnavailable, QueueFull, NotConfigured, RedisError) as failure:
        failed = OperationFailed(operation="circuit.publish_failed", exception=failure, subject=name)
        bus.instrumentation.emit(failed)


def caller() -> str:
    """Name this process, as who made a change."""
    return f"{os.getpid()}@{socket.gethostname()}"


def _events(name: str, noted: Noted, by: str, error: BaseException | str | None) -> list[Event]:
    common: dict[str, Any] = {"circuit": name, "epoch": noted.epoch, "by": by}
    if noted.change == "half_opened":
        return [_step(CircuitHalfOpenedEvent, CircuitStep(**common))]
    if noted.change == "closed":
        return [_step(CircuitClosedEvent, CircuitStep(**common))]
    reason = str(error) if error is None or isinstance(error, str) else f"{error_type_of(error)}: {error}"
    opening = CircuitOpening(
        **common,
        failures=noted.failures,
        error=reason[:SHOWN_LENGTH] if error else None,
        retry_at=datetime.now(UTC) + noted.wait if noted.wait else None,
        reopened=noted.change == "reopened",
    )
    told = _step(CircuitOpenedEvent, opening)
    return [told] if opening.reopened else [told, _warning(told, opening)]


def _step(model: type[CircuitEvent], content: CircuitStep) -> CircuitEvent:
    return model.model_validate(
        {
            "event_id": str(uuid5(NAMESPACE_URL, repr(("circuit", content.circuit, content.epoch)))),
            "correlation_id": f"circuit {content.circuit}",
            "content": content,
        }
    )


def _warning(told: CircuitEvent, opening: CircuitOpening) -> ErrorEvent:
    after = f"after {opening.failures} failures in a row" if opening.failures else "for now"
    content = ErrorContent(
        error_type="ServiceUnavailable",
        message=f"Circuit breaker open: {opening.circuit} is not called any more, {after}; last: {opening.error}",
        severity=Severity.WARNING,
        parameters={"circuit": opening.circuit, "failures": opening.failures},
    )
    return told.caused(ErrorEvent, event_type=OPENED_ERROR, content=content)
