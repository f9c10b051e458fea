"""Aggregations: the parts received so far for one call of a `gather` handler.

Promise: the first event of each part is stored until the aggregation is completed. It does not change afterwards, so
every attempt of the handler gets the same parts. It expires `age` after its last part or its completion.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


class Aggregations:
    """Aggregations by subscription and key."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._add = client.register_script(load_script("add_aggregation_part"))
        self._close = client.register_script(load_script("complete_aggregation"))

    def add(
        self, subscription: str, key: str, part: int, text: str, *, part_count: int, timeout: timedelta
    ) -> Literal["completed", "complete", "incomplete"]:
        """Store a part, numbered from 0. Safe to repeat.

        Returns completed (closed before), complete (all parts are there), or incomplete.
        """
        name = self._keys.aggregation(subscription, key)
        result: Any = self._add(keys=[name], args=[part, text, part_count, _milliseconds(self._age + timeout)])
        answer: Literal["completed", "complete", "incomplete"] = result
        return answer

    def complete(self, subscription: str, key: str) -> dict[int, str]:
        """Close the aggregation for further parts; returns the stored parts by number. Safe to repeat."""
        parts: Any = self._close(keys=[self._keys.aggregation(subscription, key)], args=[_milliseconds(self._age)])
        return {int(part): text for part, text in zip(parts[::2], parts[1::2], strict=True)}


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
