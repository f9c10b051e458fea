"""Context: what a handler may ask for, and the delivery that is being handled right now."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from petiole.events.errors import Misuse
from petiole.events.event import AnEvent, Category, Event
from petiole.events.ids import emitted_event_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from petiole.events.subscriptions import Subscription
    from petiole.tasks.celery import EventApp
    from petiole.tasks.patterns.agent_state import AgentState
    from petiole.tasks.publishing.document import Admitted
    from petiole.tasks.sessions.session import Session
    from petiole.tasks.stores.delayed_messages import Waiting
    from petiole.tasks.streaming.writer import Draft
    from petiole.workers.state.event_counts import Occurrences
    from petiole.workers.state.facts import Facts
    from petiole.workers.state.memories import Memories
    from petiole.workers.state.outbound_messages import Replies
    from petiole.workers.state.vectors import Vectors


@dataclass(slots=True)
class Outbox:
    """What a handler said while it ran, held back until it has succeeded."""

    held: list[Admitted] = field(default_factory=list)
    later: list[Waiting] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    muted: int = 0
    count: int = 0

    def mute(self) -> None:
        """Drop all of it, and keep how much that was."""
        self.muted = len(self.held) + len(self.later)
        self.held.clear()
        self.later.clear()
        self.state.clear()


@dataclass(frozen=True, slots=True)
class Context:
    """The delivery at hand: which event, to which subscription, and what can be looked up on its behalf."""

    event: Event
    delivery_id: str
    subscription: Subscription
    attempt: int
    app: EventApp = field(repr=False)
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

    @property
    def memories(self) -> Memories:
        """What was said in each stream."""
        return self.app.stores.memories

    @property
    def facts(self) -> Facts:
        """What is held to be so of each user."""
        return self.app.stores.facts

    @property
    def vectors(self) -> Vectors:
        """Where texts stand among meanings."""
        return self.app.stores.vectors

    @property
    def occurrences(self) -> Occurrences:
        """How often something came of late."""
        return self.app.stores.occurrences

    @property
    def replies(self) -> Replies:
        """Answers that wait for a reader."""
        return self.app.stores.replies

    @property
    def session(self) -> Session:
        """The session of the event's stream; where there is none, it is made when something is to be kept in it."""
        from petiole.tasks.sessions.session import Session  # noqa: PLC0415 - that room is built on this one

        return Session(self.app, self.event.stream_id)

    @property
    def state(self) -> AgentState:
        """What the agent keeps of itself, for all of its workers."""
        from petiole.tasks.patterns.agent_state import AgentState  # noqa: PLC0415 - that room is built on this one

        return AgentState(self)

    def draft(self) -> Draft:
        """Open the text that an `async def` handler writes, for readers along the way: tasks/streaming/writer.py."""
        from petiole.tasks.streaming.writer import Draft  # noqa: PLC0415 - that room is built on this one

        return Draft(self)

    def flow(self) -> list[Event]:
        """Read the events of this flow (same correlation id) that this process knows the types of, oldest first."""
        known = self.app.event_registry
        recorded = self.app.stores.history.of_flow(self.event.correlation_id)
        return [known.parse(each.document) for each in recorded if each.topic in known]

    def emitted(self, event: AnEvent) -> AnEvent:
        """Make an event of the handler's a consequence of the one at hand.

        Its id follows from the delivery and its place among what the handler says, unless the handler gave one: a
        second run of the same delivery says the same events. What is said on behalf of a request is out of date
        when the request is; its answer is not, since it tells itself when it comes too late.
        """
        said: dict[str, object] = {"path": _with(self.event.path, self.subscription.agent)}
        if "event_id" not in event.model_fields_set:
            said["event_id"] = emitted_event_id(self.delivery_id, self.outbox.count)
        if event.causation_id is None:
            said["causation_id"] = self.event.event_id
            said["hops"] = self.event.hops + 1
            said["traceparent"] = self.event.traceparent
        if event.correlation_id == event.event_id:
            said["correlation_id"] = self.event.correlation_id
        if self.event.category is Category.REQUEST and event.category is not Category.RESPONSE:
            said["expires_at"] = _earlier(event.expires_at, self.event.expires_at)
        self.outbox.count += 1
        return event.model_copy(update=said)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _with(path: tuple[str, ...], agent: str) -> tuple[str, ...]:
    return (*(earlier for earlier in path if earlier != agent), agent)


_current: ContextVar[Context | None] = ContextVar("petiole_delivery", default=None)


def current_context() -> Context | None:
    """Return the delivery that is being handled here and now; None outside handlers."""
    return _current.get()


def handling(context: Context, act: Callable[[], object]) -> object:
    """Run `act` as the handling of that delivery. Raises Misuse where another one is being handled already."""
    if _current.get() is not None:
        raise Misuse("a handler cannot be run inside a handler; publish an event instead")
    token = _current.set(context)
    try:
        return act()
    finally:
        _current.reset(token)
