"""Instrumentation: what happens to events is told in frozen records, to whoever listens.

    bus.instrumentation.listen(count)

    def count(record: Record) -> None:
        if isinstance(record, DeliveryFinished): ...

This is the one way out for logs, metrics and traces. Logging is the first listener: it writes each record under its
`name`, at its `level`, with its fields. Listeners are called in the thread where it happens and must be quick; one that
raises is logged and changes no outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import ClassVar, TypeAlias

log = logging.getLogger("petiole")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Something that happened. Subclasses name it."""

    name: ClassVar[str]
    level: ClassVar[int] = logging.WARNING

    @property
    def logged_name(self) -> str:
        """The name under which it is logged."""
        return self.name

    @property
    def logged_level(self) -> int:
        """The level at which it is logged."""
        return self.level

    def facts(self) -> dict[str, object]:
        """Return the fields that are set, by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None and name != "exception"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPublished(Record):
    """An event was sent to the queues of its subscriptions."""

    name = "event.published"
    level = logging.DEBUG
    event_type: str
    event_id: str
    stream_id: str
    correlation_id: str
    subscriptions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord(Record):
    """Something that happened to a delivery. The event's fields are text, also where the event cannot be read."""

    delivery_id: str
    subscription: str
    event_type: str | None = None
    event_id: str | None = None
    stream_id: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFinished(DeliveryRecord):
    """A delivery ended without a failure: handled, duplicate, expired, aborted, or its lease was lost."""

    name = "delivery.finished"
    level = logging.DEBUG
    attempt: int
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRetrying(DeliveryRecord):
    """An attempt failed; the next one is due."""

    name = "delivery.retried"
    attempt: int
    error: str
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDeferred(DeliveryRecord):
    """A handler asked for another time; no attempt was spent."""

    name = "delivery.deferred"
    attempt: int
    error: str
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDeadLettered(DeliveryRecord):
    """A delivery became a dead letter."""

    name = "delivery.dead_lettered"
    level = logging.ERROR
    cause: str
    error: str
    exception: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLeaseLost(DeliveryRecord):
    """Another worker holds the delivery by now: what this one did of it was discarded."""

    name = "delivery.lease_lost"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReported(Record):
    """An event of the error channel was acted on."""

    name = "error.reported"
    severity: str
    error_type: str
    error: str
    event_id: str | None = None

    @property
    def logged_level(self) -> int:
        """The level at which it is logged: that of the severity."""
        return logging.getLevelNamesMapping()[self.severity.upper()]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowAborted(Record):
    """An agent's deliveries of a flow are not handled any more."""

    name = "flow.aborted"
    level = logging.ERROR
    agent: str
    correlation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitChanged(Record):
    """A circuit breaker was opened, closed or probed."""

    name = "circuit"
    circuit: str
    change: str
    epoch: int
    by: str

    @property
    def logged_name(self) -> str:
        """The name under which it is logged, such as `circuit.opened`."""
        return f"{self.name}.{self.change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsUnguarded(Record):
    """The state store is away: calls go through without circuit breaker and rate limit."""

    name = "breaker.store_failed"
    level = logging.ERROR
    operation: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsGuardedAgain(Record):
    """The state store is back, after so many unguarded calls."""

    name = "breaker.store_recovered"
    unguarded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettersDropped(Record):
    """Dead letters were above their limit in number or age."""

    name = "dead_letters.dropped"
    dropped: int
    limit: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChanged(Record):
    """This worker announced an agent, paused it or resumed it."""

    name = "agent"
    level = logging.INFO
    agent: str
    change: str

    @property
    def logged_name(self) -> str:
        """The name under which it is logged, such as `agent.paused`."""
        return f"{self.name}.{self.change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed(Record):
    """A periodic job of this worker fails; told once until it succeeds."""

    name = "job.failed"
    level = logging.ERROR
    job: str
    exception: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecovered(Record):
    """A periodic job that failed succeeds again."""

    name = "job.recovered"
    level = logging.INFO
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFailed(Record):
    """Something beside the event's path failed. Its own path goes on as documented where it is called."""

    name = "operation.failed"
    level = logging.ERROR
    operation: str
    exception: BaseException | None = None
    delivery_id: str | None = None
    subject: str | None = None

    @property
    def logged_name(self) -> str:
        """The name under which it is logged: that of the operation, such as `dead_letter.write_failed`."""
        return self.operation


Listener: TypeAlias = Callable[[Record], object]


def log_record(record: Record) -> None:
    """Write a record to the standard library's logging."""
    exception = getattr(record, "exception", None)
    log.log(record.logged_level, record.logged_name, extra=record.facts(), exc_info=exception)


class Instrumentation:
    """The listeners of one bus."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = [log_record]

    def listen(self, listener: Listener) -> None:
        """Call a listener with every record from now on."""
        self._listeners.append(listener)

    def emit(self, record: Record) -> None:
        """Tell every listener. Raises nothing."""
        for listener in self._listeners:
            try:
                listener(record)
            except Exception:
                # An observer changes no outcome.
                log.exception("listener.failed", extra={"record": record.logged_name})
