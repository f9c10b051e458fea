"""Inbox: ids of handled deliveries, to skip duplicates.

Promise: a handled delivery that the broker delivers again is recognised for `age`.
"""

from __future__ import annotations

from datetime import timedelta

from redis import Redis

from petiole.tasks.stores.keys import Keys


class Inbox:
    """Marks of handled deliveries."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age

    def is_handled(self, delivery_id: str) -> bool:
        """Return whether a delivery was handled."""
        return bool(self._client.exists(self._keys.inbox(delivery_id)))

    def mark_handled(self, delivery_id: str) -> None:
        """Record that a delivery was handled. Safe to repeat."""
        self._client.set(self._keys.inbox(delivery_id), "done", px=self._age)
