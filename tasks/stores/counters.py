"""Counters: how often things happened, over all processes.

Promise: none beyond one atomic step per count.
"""

from __future__ import annotations

from redis import Redis

from tasks.stores.keys import Keys


class Counters:
    """Counts by name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        self._client.hincrby(self._keys.counters, name, count)

    def all(self) -> dict[str, int]:
        """Read every count by name."""
        return {str(name): int(count) for name, count in self._client.hgetall(self._keys.counters).items()}
