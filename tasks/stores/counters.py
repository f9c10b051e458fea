"""Counters shared by all processes.

Promise: each increment is atomic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

from petiole.tasks.stores.keys import Keys


class Counters:
    """Counts by name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def add(self, name: str, count: int = 1) -> None:
        """Increment a counter."""
        self._client.hincrby(self._keys.counters, name, count)

    def all(self) -> dict[str, int]:
        """Read all counters by name."""
        return {str(name): int(count) for name, count in self._client.hgetall(self._keys.counters).items()}

    def last_summary(self) -> tuple[dict[str, int], str | None]:
        """Read the counters and the history's last entry as of the last metrics summary; None before the first."""
        summary: Any = self._client.hmget(self._keys.metrics_summary, "counts", "until")
        counts, until = summary
        return (json.loads(counts) if counts else {}), until

    def save_summary(self, counts: Mapping[str, int], until: str) -> None:
        """Store the counters and the history entry from which the next summary starts."""
        self._client.hset(self._keys.metrics_summary, mapping={"counts": json.dumps(dict(counts)), "until": until})
