"""Context: what a handler is given beside its event."""

from __future__ import annotations

from petiole.events.event import Event
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.patterns.agent_state import AgentState
from petiole.tasks.sessions.session import Session
from petiole.tasks.streaming.writer import ResponseStream


class Context(CurrentDelivery):
    """The delivery at hand: which event, to which subscription, and what can be looked up on its behalf."""

    __slots__ = ()

    @property
    def session(self) -> Session:
        """The session of the event's stream; where there is none, it is made when something is to be kept in it."""
        return Session(self.bus, self.event.stream_id)

    @property
    def state(self) -> AgentState:
        """The agent's state, shared by all of its workers."""
        return AgentState(self)

    def stream_response(self) -> ResponseStream:
        """Open the text that an `async def` handler writes, for readers along the way: tasks/streaming/writer.py."""
        return ResponseStream(self)

    def flow(self) -> list[Event]:
        """Read the events of this flow (same correlation id) that this process knows the types of, oldest first."""
        known = self.bus.event_registry
        recorded = self.bus.stores.history.read_flow(self.event.correlation_id)
        return [known.parse(each.document) for each in recorded if each.topic in known]
