"""Sessions of conversations, for handlers and for channels that receive users' messages.

    new ── first event published ── active ── idle timeout ── idle ── end timeout, or closed ── ended
                                      └──────── activity ───────┘

    info = record_session_event(event)          in a channel, before it publishes the event; may raise SessionEnded
    context.session                             in a handler: the session of its event's stream
    context.session.memory.increment("turns")
    end_session("a-stream")                     ends it; beat ends idle sessions (expiry.py)

A session's id is that of its stream. It is `new` until `input.stream.started` was published. The ids of that event and
of `input.stream.ended` are derived from the session, so each is published once, even if several processes publish it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from uuid import NAMESPACE_URL, uuid5

from pydantic import TypeAdapter

from petiole.events.arguments import checks_arguments, instance_of
from petiole.events.catalog.session import StreamEnded, StreamEndedEvent
from petiole.events.errors import InvalidTransition, PayloadUnreadable, unknown_session
from petiole.events.event import Event, EventContext
from petiole.events.ids import StreamId
from petiole.tasks.handling.current import current_bus
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.sessions.errors import lookup_operation, session_ended_error
from petiole.tasks.sessions.working_memory import WorkingMemory
from petiole.tasks.stores.sessions import EndReason, Participant, SessionInfo, SessionState, SessionType

if TYPE_CHECKING:
    from petiole.tasks.stores.sessions import Sessions

REFUSED_COUNTER = "session_events_rejected"
"""The counter of events that were rejected because their session had ended."""

_TYPES: TypeAdapter[SessionType] = TypeAdapter(SessionType)


class Session:
    """A session in the state store. Every access reads the current values; every change is visible to all processes."""

    def __init__(self, bus: BusRuntime, session_id: str) -> None:
        self.id = session_id
        self._bus = bus

    def __repr__(self) -> str:
        return f"Session({self.id!r})"

    @property
    def info(self) -> SessionInfo:
        """Type, state, participants and times. Raises UsageError (unknown_session), BrokerUnavailable."""
        with self._bus.state_store_access(self._operation):
            info = self._store.get(self.id)
        if info is None:
            raise unknown_session(self.id)
        return info

    @property
    def state(self) -> SessionState:
        """The current state. Raises as `info`."""
        return self.info.state

    @property
    def has_ended(self) -> bool:
        """Whether the session has ended; False if it does not exist. Raises BrokerUnavailable."""
        with self._bus.state_store_access(self._operation):
            info = self._store.get(self.id)
        return info is not None and info.state == "ended"

    @property
    def memory(self) -> WorkingMemory:
        """Values that all handlers of the session share until it ends."""
        return WorkingMemory(self._bus, self.id)

    def events(self) -> list[Event]:
        """Return the session's last events, oldest first.

        Leaves out events of types and versions that this process cannot read, and events whose stored content is
        missing (never published, or deleted after its retention).

        Raises:
            PayloadUnreadable: (payload_altered) a stored content was altered.
            BrokerUnavailable: The state store does not answer.
        """
        with self._bus.state_store_access(self._operation):
            texts = self._store.events(self.id)
        documents = self._restore_contents([json.loads(text) for text in texts])
        return self._bus.event_registry.read_known(documents)

    @checks_arguments(participant=instance_of(Participant))
    def join(self, participant: Participant) -> None:
        """Add a participant; safe to repeat. Raises SessionEnded, BrokerUnavailable."""
        with self._bus.state_store_access(self._operation):
            self._store.record_event(self.id)
            self._require(self._store.join(self.id, participant))

    @checks_arguments(participant_id=StreamId)
    def leave(self, participant_id: str) -> None:
        """Remove a participant; safe to repeat.

        Raises SessionEnded, UsageError (unknown_session), BrokerUnavailable.
        """
        with self._bus.state_store_access(self._operation):
            self._require(self._store.leave(self.id, participant_id))

    @checks_arguments(to=SessionState, reason=EndReason | None)
    def transition(self, to: SessionState, *, reason: EndReason | None = None) -> bool:
        """Change the state; returns whether it changed. Does not publish an event: `end_session` does.

        Raises InvalidTransition, UsageError (unknown_session), BrokerUnavailable.
        """
        with self._bus.state_store_access(self._operation):
            has_changed, state = self._store.transition(self.id, to, reason=reason)
        if state is None:
            raise unknown_session(self.id)
        if state != to:
            raise InvalidTransition(self.id, state, to)
        return has_changed

    def _require(self, outcome: Literal["stored", "ended", "not_found"]) -> None:
        if outcome == "not_found":
            raise unknown_session(self.id)
        if outcome == "ended":
            raise session_ended_error(self.id, self._store.get(self.id))

    def _restore_contents(self, documents: Sequence[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
        for document in documents:
            try:
                restored = claim_check.restore_content(self._bus, document)
            except PayloadUnreadable as error:
                if error.code != "payload_missing":
                    raise
                continue
            if isinstance(restored, Mapping):
                yield restored

    @property
    def _operation(self) -> str:
        return lookup_operation(self.id)

    @property
    def _store(self) -> Sessions:
        return self._bus.stores.sessions


@checks_arguments(event=instance_of(Event), session_type=SessionType)
def record_session_event(event: Event, *, session_type: str = "chat", bus: BusRuntime | None = None) -> SessionInfo:
    """Record an event in the session of its stream; call it before `publish`. The first event starts the session.

    Adds the event to the session's event buffer, and its user to the participants.

    Args:
        event: An event from a user.
        session_type: chat, meeting or call; only that of the first event counts.
        bus: By default the current bus.

    Raises:
        SessionEnded: The session has ended.
        BrokerUnavailable: The state store does not answer.
        UsageError: (invalid_option) the session type is unknown. The event is invalid, as `publish` raises it.
    """
    active_bus = bus or current_bus()
    validated_type = _TYPES.validate_python(session_type)
    validated = validate(active_bus, event)
    user_id = event.context.user_id
    participant = Participant(id=user_id) if user_id else None
    with active_bus.state_store_access(lookup_operation(event.stream_id)):
        text = validated.recorded.text
        info = active_bus.stores.sessions.record_event(event.stream_id, validated_type, text, participant)
        if info.state == "ended":
            active_bus.stores.counters.add(REFUSED_COUNTER)
            raise session_ended_error(event.stream_id, info)
    return info


@checks_arguments(info=instance_of(SessionInfo))
def mark_session_started(info: SessionInfo, *, bus: BusRuntime | None = None) -> None:
    """Record that `input.stream.started` was published. Safe to repeat, also concurrently."""
    active_bus = bus or current_bus()
    with active_bus.state_store_access(lookup_operation(info.session_id)):
        active_bus.stores.sessions.transition(info.session_id, "active")


@checks_arguments(session_id=StreamId, session_type=SessionType)
def open_session(session_id: str, *, session_type: str = "chat", bus: BusRuntime | None = None) -> Session:
    """Return a session; create it if it does not exist. Raises UsageError (invalid_option), BrokerUnavailable."""
    active_bus = bus or current_bus()
    with active_bus.state_store_access(lookup_operation(session_id)):
        active_bus.stores.sessions.record_event(session_id, _TYPES.validate_python(session_type))
    return Session(active_bus, session_id)


@checks_arguments(session_id=StreamId, reason=EndReason)
def end_session(session_id: str, *, reason: EndReason = "closed", bus: BusRuntime | None = None) -> bool:
    """End a session, and publish `input.stream.ended`; returns whether this call ended it. Safe to repeat.

    Raises UsageError (unknown_session), BrokerUnavailable.
    """
    active_bus = bus or current_bus()
    session = Session(active_bus, session_id)
    has_changed = session.transition("ended", reason=reason) if not session.has_ended else False
    publish_session_ended(active_bus, session.info)
    return has_changed


def publish_session_ended(bus: BusRuntime, info: SessionInfo) -> None:
    """Publish `input.stream.ended`; a repetition publishes nothing. Raises BrokerUnavailable, QueueFull."""
    event = StreamEndedEvent(
        event_id=session_event_id(info, "ended"),
        stream_id=info.session_id,
        timestamp=info.ended_at or info.last_activity,
        content=StreamEnded(reason=info.end_reason or "closed"),
        context=EventContext(session_id=info.session_id),
    )
    commit(bus, [validate(bus, event)])
    with bus.state_store_access(lookup_operation(info.session_id)):
        bus.stores.sessions.mark_end_published(info.session_id)


def session_event_id(info: SessionInfo, transition: Literal["started", "ended"]) -> str:
    """Derive the id of a session's lifecycle event. The same session always gives the same id."""
    return str(uuid5(NAMESPACE_URL, repr((info.session_id, info.created_at.isoformat(), transition))))
