"""Context: the second parameter of a handler."""

from __future__ import annotations

from petiole.events.event import Event
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.patterns.agent_state import AgentState
from petiole.tasks.sessions.session import Session
from petiole.tasks.streaming.writer import ResponseStream


class Context(CurrentDelivery):
    """The current delivery: its event and subscription, and access to session, state, response stream and flow."""

    __slots__ = ()

    @property
    def session(self) -> Session:
        """The session of the event's stream; it is created by the first write."""
        return Session(self.bus, self.event.stream_id)

    @property
    def state(self) -> AgentState:
        """The agent's state, shared by all its workers."""
        return AgentState(self)

    def stream_response(self, *, stops_at_speech: bool = False) -> ResponseStream:
        """Open a response stream, to which an `async def` handler writes text (tasks/streaming/writer.py).

        With `stops_at_speech`, speech of the user interrupts it, whatever `on_busy` is.
        """
        return ResponseStream(self, stops_at_speech)

    def flow(self) -> list[Event]:
        """Read the events of this flow (same correlation id), oldest first.

        Leaves out events of types and versions that this process cannot read, and those whose content has expired.
        """
        flow = self.bus.stores.history.read_flow_documents(self.event.correlation_id)
        return self.bus.event_registry.read_known(flow)
