"""The records that only workers emit: what happens to deliveries, agents, circuit breakers and periodic jobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from petiole.tasks.instrumentation import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord(Record):
    """Base of the records of a delivery. The event's fields are None if the event cannot be read."""

    delivery_id: str
    subscription: str
    event_type: str | None = None
    event_id: str | None = None
    stream_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    agent: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFinished(DeliveryRecord):
    """A delivery ended without a failure: handled, duplicate, expired, aborted, parked, or its lease was lost."""

    name = "delivery.finished"
    level = logging.DEBUG
    outcome: str
    age_s: float | None = None
    """The time since the event was published: of a handled delivery, its critical time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerRan(DeliveryRecord):
    """A handler returned or raised."""

    name = "handler.ran"
    level = logging.DEBUG
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRetrying(DeliveryRecord):
    """An attempt failed; the next one starts at `due`."""

    name = "delivery.retried"
    error: str
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDeferred(DeliveryRecord):
    """A handler deferred its delivery to `due`; it does not count as an attempt."""

    name = "delivery.deferred"
    error: str
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerMissing(Record):
    """A subscription of an agent that this worker serves, and whose handler it does not have."""

    name = "handler.missing"
    subscription: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaDiffers(Record):
    """A worker has an own event type of this process with another schema, and with the same schema version."""

    name = "schema.differs"
    topic: str
    worker: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryParked(DeliveryRecord):
    """A delivery waits for a worker that has what it needs: a handler, or an event type."""

    name = "delivery.parked"
    level = logging.INFO
    need: str
    error: str


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
    """Another worker has leased the delivery; the results of this one were discarded."""

    name = "delivery.lease_lost"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsed(Record):
    """A call to a language model used tokens. `cost_usd` is None if its price is unknown."""

    name = "model.used"
    level = logging.DEBUG
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReported(Record):
    """An event of the error channel was handled."""

    name = "error.reported"
    severity: str
    error_type: str
    error: str
    event_id: str | None = None

    @property
    def logged_level(self) -> int:
        """The level of the log record: that of the severity."""
        return logging.getLevelNamesMapping()[self.severity.upper()]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowAborted(Record):
    """An agent stopped handling the deliveries of a flow."""

    name = "flow.aborted"
    level = logging.ERROR
    agent: str
    correlation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitChanged(Record):
    """A circuit breaker changed: opened, half-opened, reopened or closed."""

    name = "circuit"
    circuit: str
    change: str
    epoch: int
    by: str

    @property
    def logged_name(self) -> str:
        """The name of the log record, such as `circuit.opened`."""
        return f"{self.name}.{self.change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsUnguarded(Record):
    """The state store is unavailable: calls are made without circuit breaker and rate limit."""

    name = "breaker.store_failed"
    level = logging.ERROR
    operation: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsGuardedAgain(Record):
    """The state store is available again; `unguarded` counts the calls made without it."""

    name = "breaker.store_recovered"
    unguarded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettersDropped(Record):
    """Dead letters above the limit in number or age were deleted."""

    name = "dead_letters.dropped"
    dropped: int
    limit: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentChanged(Record):
    """This worker announced, paused or resumed an agent."""

    name = "agent"
    level = logging.INFO
    agent: str
    change: str

    @property
    def logged_name(self) -> str:
        """The name of the log record, such as `agent.paused`."""
        return f"{self.name}.{self.change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed(Record):
    """A periodic job of this worker failed; emitted once until the job succeeds again."""

    name = "job.failed"
    level = logging.ERROR
    job: str
    exception: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecovered(Record):
    """A periodic job succeeded after a failure."""

    name = "job.recovered"
    level = logging.INFO
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStalled(Record):
    """This worker is connected and handles nothing, although deliveries wait for it."""

    name = "worker.stalled"
    level = logging.ERROR
    worker: str
    queues: tuple[str, ...]
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecovered(Record):
    """This worker was stalled, and begins deliveries again."""

    name = "worker.recovered"
    worker: str
