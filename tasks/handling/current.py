"""The delivery that is being handled right now, in this thread or task."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime

from petiole.events.errors import UsageError
from petiole.events.event import Category, Event, EventT
from petiole.events.ids import emitted_event_id
from petiole.events.subscriptions import Subscription
from petiole.tasks.handling.outbox import Outbox
from petiole.tasks.runtime import BusRuntime, default_bus


@dataclass(frozen=True, slots=True)
class CurrentDelivery:
    """The event and the subscription of a delivery, and what its handler publishes. Handlers get it as `Context`."""

    event: Event
    delivery_id: str
    subscription: Subscription
    attempt: int
    bus: BusRuntime = field(repr=False)
    replay_id: str | None = None
    is_read_only: bool = False
    outbox: Outbox = field(default_factory=Outbox, repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this delivery: hand it to whatever must act only once."""
        return self.delivery_id

    @property
    def is_replay(self) -> bool:
        """Whether an operator had the event delivered again, and `idempotency_key` is of that replay."""
        return self.replay_id is not None

    def prepare_event(self, event: EventT) -> EventT:
        """Make an event of the handler's a consequence of the one at hand.

        Its id follows from the delivery and its place among what the handler says, unless the handler gave one: a
        second run of the same delivery says the same events. What is said on behalf of a request is out of date
        when the request is; its answer is not, since it tells itself when it comes too late.
        """
        said: dict[str, object] = {"path": _append_agent(self.event.path, self.subscription.agent)}
        if "event_id" not in event.model_fields_set:
            said["event_id"] = emitted_event_id(self.delivery_id, self.outbox.count)
        if event.causation_id is None:
            said["causation_id"] = self.event.event_id
            said["hops"] = self.event.hops + 1
            said["traceparent"] = self.event.traceparent
        if event.correlation_id == event.event_id:
            said["correlation_id"] = self.event.correlation_id
        if self.event.category is Category.REQUEST and event.category is not Category.RESPONSE:
            said["expires_at"] = _earliest(event.expires_at, self.event.expires_at)
        self.outbox.count += 1
        return event.model_copy(update=said)


def _earliest(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _append_agent(path: tuple[str, ...], agent: str) -> tuple[str, ...]:
    return (*(earlier for earlier in path if earlier != agent), agent)


_current: ContextVar[CurrentDelivery | None] = ContextVar("petiole_current_delivery", default=None)


def current_context() -> CurrentDelivery | None:
    """Return the delivery that is being handled here and now; None outside handlers."""
    return _current.get()


def run_in_context(context: CurrentDelivery, function: Callable[[], object]) -> object:
    """Run `act` as the handling of that delivery. Raises UsageError where another one is being handled already."""
    if _current.get() is not None:
        raise UsageError("a handler cannot be run inside a handler; publish an event instead")
    token = _current.set(context)
    try:
        return function()
    finally:
        _current.reset(token)


def current_bus(bus: BusRuntime | None = None) -> BusRuntime:
    """Return the bus that is given, else that of the delivery being handled, else the default bus."""
    context = _current.get()
    return bus or (context.bus if context else default_bus())
