"""States: what agents keep of themselves, by name.

Promise: what a handler sets is kept in the step that settles its delivery, or not at all, where the broker and the
state store are the same Redis (commit.lua); elsewhere just before that. The last one to settle wins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

from petiole.events.content import Value
from petiole.tasks.stores.keys import Keys


class AgentStates:
    """Values by agent and name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def get(self, agent: str, name: str) -> str | None:
        """Read a value, as JSON; None where there is none."""
        text: Any = self._client.hget(self._keys.agent_state(agent), name)
        return None if text is None else str(text)

    def put(self, agent: str, values: Mapping[str, str]) -> None:
        """Keep values, each as JSON."""
        for name, value in values.items():
            self._client.hset(self._keys.agent_state(agent), name, value)

    def read_all(self, agent: str) -> dict[str, Value]:
        """Read all values of an agent."""
        texts: Any = self._client.hgetall(self._keys.agent_state(agent))
        return {name: json.loads(text) for name, text in texts.items()}
