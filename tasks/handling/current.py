"""The delivery that this thread or asyncio task is handling."""

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
    """A delivery's event and subscription, and the outbox of its handler. Handlers get it as `Context`."""

    event: Event
    delivery_id: str
    subscription: Subscription
    attempt: int
    bus: BusRuntime = field(repr=False)
    replay_id: str | None = None
    is_read_only: bool = False
    outbox: Outbox = field(default_factory=Outbox, repr=False)

    @property
    def publisher(self) -> str:
        """The name under which the handler publishes."""
        return self.bus.settings.publisher or self.subscription.agent

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this delivery; pass it to external calls that must happen only once."""
        return self.delivery_id

    @property
    def is_replay(self) -> bool:
        """Whether an operator replayed the event; each replay has an `idempotency_key` of its own."""
        return self.replay_id is not None

    def prepare_event(self, event: EventT) -> EventT:
        """Make an event of the handler a consequence of the event being handled.

        The handler may set the event's id. Otherwise the id derives from the delivery and the event's position in the
        outbox, so that a second attempt publishes the same events. Events that a handler of a request publishes expire
        with the request, except for the response, which reports that it is late.
        """
        update: dict[str, object] = {"path": _append_agent(self.event.path, self.subscription.agent)}
        if "event_id" not in event.model_fields_set:
            update["event_id"] = emitted_event_id(self.delivery_id, self.outbox.count)
        if event.causation_id is None:
            update["causation_id"] = self.event.event_id
            update["hops"] = self.event.hops + 1
            update["traceparent"] = self.event.traceparent
        if event.correlation_id == event.event_id:
            update["correlation_id"] = self.event.correlation_id
        if self.event.category is Category.REQUEST and event.category is not Category.RESPONSE:
            update["expires_at"] = _earliest(event.expires_at, self.event.expires_at)
        self.outbox.count += 1
        return event.copy_with_valid(update)


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _append_agent(path: tuple[str, ...], agent: str) -> tuple[str, ...]:
    return (*(earlier for earlier in path if earlier != agent), agent)


_current: ContextVar[CurrentDelivery | None] = ContextVar("petiole_current_delivery", default=None)


def current_context() -> CurrentDelivery | None:
    """Return the delivery that is being handled; None outside handlers."""
    return _current.get()


def current_publisher(bus: BusRuntime) -> str:
    """Return the name under which this code publishes."""
    context = _current.get()
    return context.publisher if context else bus.settings.publisher or bus.default_publisher


def run_in_context(context: CurrentDelivery, function: Callable[[], object]) -> object:
    """Run a function as the handling of a delivery. Raises UsageError inside a handler."""
    if _current.get() is not None:
        raise UsageError("a handler cannot be run inside a handler; publish an event instead")
    token = _current.set(context)
    try:
        return function()
    finally:
        _current.reset(token)


def current_bus(bus: BusRuntime | None = None) -> BusRuntime:
    """Return the given bus, else the bus of the delivery being handled, else the default bus."""
    context = _current.get()
    return bus or (context.bus if context else default_bus())
