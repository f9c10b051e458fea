"""Agent state: what an agent keeps of itself beyond one delivery, for all of its workers.

    context.state.get("seen", 0)
    context.state.set("seen", 5)        and `agent.state.updated` is published

Both the value and its event leave when the handler has succeeded, in the step that settles the delivery; a handler that
fails has set nothing, and one that answers requests may set nothing unless it was declared so. Of two deliveries that
set the same name at the same time the last to settle wins: what must be counted exactly belongs into an ordered
subscription, or a store of its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from petiole.events.catalog.agent import StateUpdatedEvent, UpdatedState
from petiole.events.content import Value
from petiole.events.errors import read_only_violation
from petiole.tasks.handling.buffering import hold

if TYPE_CHECKING:
    from petiole.tasks.handling.current import CurrentDelivery


class AgentState:
    """The state of the agent whose delivery is being handled."""

    def __init__(self, context: CurrentDelivery) -> None:
        self._context = context
        self._agent = context.subscription.agent

    def get(self, name: str, default: Value = None) -> Value:
        """Read a value; what this handler has set counts already. Raises RedisError."""
        text = self._context.outbox.state.get(name) or self._context.bus.stores.states.get(self._agent, name)
        value: Value = default if text is None else json.loads(text)
        return value

    def set(self, name: str, value: Value) -> None:
        """Set a value once the handler has succeeded, and tell so.

        Raises: UsageError (read_only_violation) in a function that answers; InvalidEvent for what is no
        JSON.
        """
        if self._context.is_read_only:
            raise read_only_violation(self._context.subscription.name, name)
        content = UpdatedState(agent=self._agent, state=name, value={name: value})
        event = self._context.event.caused(StateUpdatedEvent, content=content)
        hold(self._context, event)
        self._context.outbox.state[name] = json.dumps(content.model_dump(mode="json")["value"][name])
