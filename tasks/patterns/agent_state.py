"""Agent state: values that an agent stores across deliveries, shared by all of its workers.

    context.state.get("seen", 0)
    context.state.set("seen", 5)        also publishes `agent.state.updated`

The value and its event are written when the handler has succeeded, in the call that settles the delivery. A handler
that fails changes nothing. A handler that answers requests is read-only unless it was declared otherwise. If two
deliveries set the same name at the same time, the last to settle wins; for exact counts use an ordered subscription,
or another store.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from petiole.events.catalog.agent import AgentStateContent, StateUpdatedEvent
from petiole.events.content import Value
from petiole.events.errors import read_only_violation
from petiole.tasks.handling.buffering import buffer

if TYPE_CHECKING:
    from petiole.tasks.handling.current import CurrentDelivery


class AgentState:
    """The state of the agent that handles the current delivery."""

    def __init__(self, context: CurrentDelivery) -> None:
        self._context = context
        self._agent = context.subscription.agent

    def get(self, name: str, default: Value = None) -> Value:
        """Return a value, including values that this handler has set. Raises RedisError."""
        text = self._context.outbox.state.get(name) or self._context.bus.stores.agent_states.get(self._agent, name)
        value: Value = default if text is None else json.loads(text)
        return value

    def set(self, name: str, value: Value) -> None:
        """Set a value and publish `agent.state.updated` when the handler has succeeded.

        Raises:
            UsageError: (read_only_violation) the handler answers requests and is read-only.
            InvalidEvent: The value is not JSON.
        """
        if self._context.is_read_only:
            raise read_only_violation(self._context.subscription.name, name)
        content = AgentStateContent(agent=self._agent, state=name, value={name: value})
        event = self._context.event.caused(StateUpdatedEvent, content=content)
        buffer(self._context, event)
        self._context.outbox.state[name] = json.dumps(content.model_dump(mode="json")["value"][name])
