"""Push notifications: where the clients of a task want to be notified, and which state each was notified of.

Promise: a configuration that was saved is kept until it is removed, or for the retention of the history, like its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import cast

from redis import Redis

from petiole.workers.state.keys import StateKeys


class PushNotifications:
    """Configurations as JSON, by task and by the id that the client gave them."""

    def __init__(self, client: Redis, keys: StateKeys, retention: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._retention = retention

    def save(self, task_id: str, config_id: str, config: str) -> None:
        """Save a configuration; it replaces an earlier one with this id, whose notifications are forgotten."""
        key, notified = self._keys.push_configurations(task_id), self._keys.push_notified(task_id)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(key, config_id, config)
            pipe.hdel(notified, config_id)
            pipe.expire(key, self._retention)
            pipe.execute()

    def read(self, task_id: str) -> Mapping[str, str]:
        """Return the configurations of a task by their ids."""
        return cast("Mapping[str, str]", self._client.hgetall(self._keys.push_configurations(task_id)))

    def remove(self, task_id: str, config_id: str) -> None:
        """Remove a configuration. Safe to repeat."""
        self._client.hdel(self._keys.push_configurations(task_id), config_id)

    def read_notified(self, task_id: str) -> Mapping[str, str]:
        """Return the state of which each configuration's client was notified last."""
        return cast("Mapping[str, str]", self._client.hgetall(self._keys.push_notified(task_id)))

    def mark_notified(self, task_id: str, config_id: str, state: str) -> None:
        """Record that a client was notified of a state."""
        key = self._keys.push_notified(task_id)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(key, config_id, state)
            pipe.expire(key, self._retention)
            pipe.execute()
