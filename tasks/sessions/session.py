"""Sessions: what a handler, or whoever brings in what users say, asks of a conversation as such.

    new ── its first event comes in ── active ── nothing happens ── idle ── still nothing, or closed ── ended
                                         └────── something happens ──┘

    session = record_session_event(event)          at the door, before the event is published; refused where it has
    ended
    context.session                         in a handler, the session of its event's stream
    context.session.memory.increment("turns")
    end_session("a-stream")                 closes it; beat ends those that are idle (session_sweep.py)

A session has its stream's id. It is `new` until `input.stream.started` was published, and that event and
`input.stream.ended` have ids that follow from the session: whoever publishes them, and however often, each stands once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from uuid import NAMESPACE_URL, uuid5

from pydantic import TypeAdapter

from petiole.events.catalog.session import StreamEnded, StreamEndedEvent
from petiole.events.errors import InvalidTransition, PayloadUnreadable, unknown_session
from petiole.events.event import Event, EventContext
from petiole.tasks.handling.current import current_bus
from petiole.tasks.publishing import claim_check
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.sessions.errors import asking_for, session_ended_error
from petiole.tasks.sessions.working_memory import WorkingMemory
from petiole.tasks.stores.sessions import EndReason, Participant, SessionInfo, SessionState, SessionType

if TYPE_CHECKING:
    from petiole.tasks.stores.sessions import Sessions

REFUSED_COUNTER = "session_events_rejected"
"""The counter of events that came for a session that had ended."""

_TYPES: TypeAdapter[SessionType] = TypeAdapter(SessionType)


class Session:
    """A session as it is now: what is read of it is read anew each time, and what is done is done for all."""

    def __init__(self, bus: BusRuntime, session_id: str) -> None:
        self.id = session_id
        self._bus = bus

    def __repr__(self) -> str:
        return f"Session({self.id!r})"

    @property
    def info(self) -> SessionInfo:
        """Type, state, participants and times. Raises UsageError (unknown_session), BrokerUnavailable."""
        with self._bus.state_store_access(self._what):
            found = self._store.get(self.id)
        if found is None:
            raise unknown_session(self.id)
        return found

    @property
    def state(self) -> SessionState:
        """The state it is in. Raises as `facts`."""
        return self.info.state

    @property
    def has_ended(self) -> bool:
        """Whether it is over; one that there is none of is not. Raises BrokerUnavailable."""
        with self._bus.state_store_access(self._what):
            found = self._store.get(self.id)
        return found is not None and found.state == "ended"

    @property
    def memory(self) -> WorkingMemory:
        """Values that all handlers share as long as it lasts."""
        return WorkingMemory(self._bus, self.id)

    def events(self) -> list[Event]:
        """Read the last events that came in, oldest first, of those types that this process knows.

        One whose large content is not in the store is left out: it was never published, or its time is over. Raises
        PayloadUnreadable (payload_altered), BrokerUnavailable.
        """
        known = self._bus.event_registry
        with self._bus.state_store_access(self._what):
            texts = self._store.events(self.id)
        documents = [json.loads(text) for text in texts]
        return [known.parse(each) for each in self._restore_contents(documents) if str(each["event_type"]) in known]

    def join(self, participant: Participant) -> None:
        """Let somebody take part; safe to repeat. Raises SessionEnded, BrokerUnavailable."""
        with self._bus.state_store_access(self._what):
            self._store.record_event(self.id)
            self._require(self._store.join(self.id, participant))

    def leave(self, participant_id: str) -> None:
        """Let somebody take part no more; safe to repeat.

        Raises: SessionEnded, UsageError (unknown_session), BrokerUnavailable.
        """
        with self._bus.state_store_access(self._what):
            self._require(self._store.leave(self.id, participant_id))

    def transition(self, to: SessionState, *, reason: EndReason | None = None) -> bool:
        """Bring it to another state; returns whether it was not in it before.

        Whoever ends a session tells so: `end_session` does both.
        Raises: InvalidTransition, UsageError (unknown_session), BrokerUnavailable.
        """
        with self._bus.state_store_access(self._what):
            moved, state = self._store.transition(self.id, to, reason=reason)
        if state is None:
            raise unknown_session(self.id)
        if state != to:
            raise InvalidTransition(self.id, state, to)
        return moved

    def _require(self, outcome: Literal["stored", "ended", "not_found"]) -> None:
        if outcome == "not_found":
            raise unknown_session(self.id)
        if outcome == "ended":
            raise session_ended_error(self.id, self._store.get(self.id))

    def _restore_contents(self, documents: Sequence[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
        for each in documents:
            try:
                whole = claim_check.restore_content(self._bus, each)
            except PayloadUnreadable as error:
                if error.code != "payload_missing":
                    raise
                continue
            if isinstance(whole, Mapping):
                yield whole

    @property
    def _what(self) -> str:
        return asking_for(self.id)

    @property
    def _store(self) -> Sessions:
        return self._bus.stores.sessions


def record_session_event(event: Event, *, session_type: str = "chat", bus: BusRuntime | None = None) -> SessionInfo:
    """Let an event come into the session of its stream, which begins with the first; to be called before `publish`.

    It is in the session's buffer then, and its user takes part. `session_type` (chat, meeting or call) is that of the
    first event. Raises pydantic's ValidationError for another one, SessionEnded, BrokerUnavailable, and what
    `publish` raises for an event that cannot be published.
    """
    here = bus or current_bus()
    kind = _TYPES.validate_python(session_type)
    admitted = validate(here, event)
    user_id = event.context.user_id
    participant = Participant(id=user_id) if user_id else None
    with here.state_store_access(asking_for(event.stream_id)):
        facts = here.stores.sessions.record_event(event.stream_id, kind, admitted.text, participant)
        if facts.state == "ended":
            here.stores.counters.add(REFUSED_COUNTER)
            raise session_ended_error(event.stream_id, facts)
    return facts


def mark_session_started(info: SessionInfo, *, bus: BusRuntime | None = None) -> None:
    """Note that the beginning of a session was told. Safe to repeat, by several at once."""
    here = bus or current_bus()
    with here.state_store_access(asking_for(info.session_id)):
        here.stores.sessions.transition(info.session_id, "active")


def open_session(session_id: str, *, session_type: str = "chat", bus: BusRuntime | None = None) -> Session:
    """Return a session, which is made where there is none. Raises ValidationError, BrokerUnavailable."""
    here = bus or current_bus()
    with here.state_store_access(asking_for(session_id)):
        here.stores.sessions.record_event(session_id, _TYPES.validate_python(session_type))
    return Session(here, session_id)


def end_session(session_id: str, *, reason: EndReason = "closed", bus: BusRuntime | None = None) -> bool:
    """End a session, and publish `input.stream.ended`; returns whether this call ended it. Safe to repeat.

    Raises UsageError (unknown_session), BrokerUnavailable.
    """
    here = bus or current_bus()
    session = Session(here, session_id)
    is_first = session.transition("ended", reason=reason) if not session.has_ended else False
    publish_session_ended(here, session.info)
    return is_first


def publish_session_ended(bus: BusRuntime, info: SessionInfo) -> None:
    """Publish that a session has ended, once whoever does it. Raises BrokerUnavailable, QueueFull."""
    event = StreamEndedEvent(
        event_id=session_event_id(info, "ended"),
        stream_id=info.session_id,
        timestamp=info.ended_at or info.last_activity,
        content=StreamEnded(reason=info.end_reason or "closed"),
        context=EventContext(session_id=info.session_id),
    )
    commit(bus, [validate(bus, event)])
    with bus.state_store_access(asking_for(info.session_id)):
        bus.stores.sessions.mark_end_published(info.session_id)


def session_event_id(info: SessionInfo, transition: Literal["started", "ended"]) -> str:
    """Name the event that tells of a step of a session; the same session always gives the same id."""
    return str(uuid5(NAMESPACE_URL, repr((info.session_id, info.created_at.isoformat(), transition))))
