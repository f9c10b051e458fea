"""Shadow outputs: events that shadow handlers would have published, newest first.

Promise: the last `length` deliveries of each shadow subscription are kept for `age` after the last one. A delivery that
is handled twice is listed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from redis import Redis

from petiole.tasks.stores.keys import Keys

MAX_SHADOW_OUTPUTS = 1_000


class ShadowOutputs:
    """Captured outputs by subscription, one JSON object for each delivery."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta, length: int = MAX_SHADOW_OUTPUTS) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._length = length

    def keep(self, subscription: str, output: Mapping[str, object]) -> None:
        """Store the output of one delivery."""
        key = self._keys.shadow(subscription)
        with self._client.pipeline() as pipe:
            pipe.lpush(key, json.dumps(dict(output)))
            pipe.ltrim(key, 0, self._length - 1)
            pipe.pexpire(key, self._age)
            pipe.execute()

    def newest(self, subscription: str, limit: int) -> Iterator[Mapping[str, Any]]:
        """Read the outputs of the last deliveries."""
        outputs: Any = self._client.lrange(self._keys.shadow(subscription), 0, limit - 1)
        return (json.loads(output) for output in outputs)

    def count(self, subscription: str) -> int:
        """Count the stored deliveries."""
        count: Any = self._client.llen(self._keys.shadow(subscription))
        return int(count)
