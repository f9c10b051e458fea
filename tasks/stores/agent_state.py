"""Agent state: values that an agent's handlers share, by name.

Promise: values that a handler sets are stored in the step that settles its delivery (commit.lua), or not at all. On
other brokers they are stored just before the settlement. The last settlement wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

from petiole.events.content import Value
from petiole.tasks.stores.keys import Keys


class AgentStates:
    """JSON values by agent and name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def get(self, agent: str, name: str) -> str | None:
        """Read a value as JSON; None if it is not set."""
        text: Any = self._client.hget(self._keys.agent_state(agent), name)
        return None if text is None else str(text)

    def put(self, agent: str, values: Mapping[str, str]) -> None:
        """Store values, each as JSON."""
        for name, value in values.items():
            self._client.hset(self._keys.agent_state(agent), name, value)

    def read_all(self, agent: str) -> dict[str, Value]:
        """Read all values of an agent."""
        texts: Any = self._client.hgetall(self._keys.agent_state(agent))
        return {name: json.loads(text) for name, text in texts.items()}
