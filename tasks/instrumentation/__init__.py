"""Instrumentation: each event in the life of a delivery is a frozen record, passed to listeners.

    bus.instrumentation.listen(count)

    def count(record: Record) -> None:
        if isinstance(record, DeliveryFinished): ...

All logs, metrics and traces of the stages go through here. Logging is the first listener: it logs each record under its
`name`, at its `level`, with its fields. Listeners run in the thread that emits the record, so they must be quick. An
error of a listener is logged and changes no outcome.

The records that only workers emit are in worker_records.py; a process that only publishes does not load them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from petiole.events.texts import traceback_text
from petiole.lazy import lazy_names
from petiole.tasks.instrumentation.delivery_fields import read_delivery_fields

if TYPE_CHECKING:
    from petiole.tasks.instrumentation.worker_records import (
        AgentChanged,
        CallsGuardedAgain,
        CallsUnguarded,
        CircuitChanged,
        DeadLettersDropped,
        DeliveryDeadLettered,
        DeliveryDeferred,
        DeliveryFinished,
        DeliveryLeaseLost,
        DeliveryParked,
        DeliveryRecord,
        DeliveryRetrying,
        ErrorReported,
        FlowAborted,
        HandlerMissing,
        HandlerRan,
        JobFailed,
        JobRecovered,
        ModelUsed,
        SchemaDiffers,
        WorkerRecovered,
        WorkerStalled,
    )

__all__ = [
    "AgentChanged",
    "CallsGuardedAgain",
    "CallsUnguarded",
    "CircuitChanged",
    "DeadLettersDropped",
    "DeliveryDeadLettered",
    "DeliveryDeferred",
    "DeliveryFinished",
    "DeliveryLeaseLost",
    "DeliveryParked",
    "DeliveryRecord",
    "DeliveryRetrying",
    "ErrorReported",
    "EventPublished",
    "FlowAborted",
    "HandlerMissing",
    "HandlerRan",
    "Instrumentation",
    "JobFailed",
    "JobRecovered",
    "Listener",
    "ModelUsed",
    "OperationFailed",
    "PublishFailed",
    "Record",
    "SchemaDiffers",
    "WorkerRecovered",
    "WorkerStalled",
]

log = logging.getLogger("petiole")


def make_traceback_safe(record: logging.LogRecord) -> bool:
    """Format the traceback of a log record so that any handler can write it. A filter of loggers."""
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = traceback_text(record.exc_info[1]).rstrip()
    return True


log.addFilter(make_traceback_safe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of all records."""

    name: ClassVar[str]
    level: ClassVar[int] = logging.WARNING

    @property
    def logged_name(self) -> str:
        """The name of the log record."""
        return self.name

    @property
    def logged_level(self) -> int:
        """The level of the log record."""
        return self.level

    def facts(self) -> dict[str, object]:
        """Return the fields that are not None, by name; the exception is left out."""
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
class PublishFailed(Record):
    """A call that publishes raised. Its caller gets the error."""

    name = "event.publish_failed"
    level = logging.DEBUG
    event_type: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationFailed(Record):
    """A secondary operation failed. The delivery continues; the caller's docstring describes how."""

    name = "operation.failed"
    level = logging.ERROR
    operation: str
    exception: BaseException | None = None
    delivery_id: str | None = None
    subject: str | None = None

    @property
    def logged_name(self) -> str:
        """The name of the log record: that of the operation, such as `dead_letter.write_failed`."""
        return self.operation


Listener: TypeAlias = Callable[[Record], object]


def log_record(record: Record) -> None:
    """Write a record to the standard library's logging."""
    if log.isEnabledFor(record.logged_level):
        exception = getattr(record, "exception", None)
        fields = {**read_delivery_fields(), **record.facts()}
        log.log(record.logged_level, record.logged_name, extra=fields, exc_info=exception)


class Instrumentation:
    """The listeners of one bus.

    Args:
        make_listeners: makes further listeners when the first record may be emitted, as settings are not read before.
    """

    def __init__(self, make_listeners: Callable[[], Iterable[Listener]] = tuple) -> None:
        self._listeners: list[Listener] = [log_record]
        self._make_listeners: Callable[[], Iterable[Listener]] | None = make_listeners

    def listen(self, listener: Listener) -> None:
        """Add a listener, which is called with every later record."""
        self._listeners.append(listener)

    def wants(self, record: type[Record]) -> bool:
        """Return whether anybody reads records of this class: a listener, or a log at its level."""
        return len(self._all_listeners()) > 1 or log.isEnabledFor(record.level)

    def emit(self, record: Record) -> None:
        """Call every listener with a record. Raises nothing."""
        for listener in self._all_listeners():
            try:
                listener(record)
            except Exception:
                # A listener must not change the outcome of a delivery.
                log.exception("listener.failed", extra={"record": record.logged_name})

    def _all_listeners(self) -> list[Listener]:
        if (make := self._make_listeners) is not None:
            self._make_listeners = None
            self._listeners += make()
        return self._listeners


__getattr__, __dir__ = lazy_names(__name__, {"petiole.tasks.instrumentation.worker_records": " ".join(__all__)})
