"""Gatherings: the parts that have come of what a handler waits for.

Promise: of each part the first that came is kept, until the gathering is closed. From then on it does not change, so
that every run of the handler is given the same parts. It is forgotten `age` after its last part or its closing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


class Aggregations:
    """Gatherings by subscription and key."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._add = client.register_script(load_script("add_aggregation_part"))
        self._close = client.register_script(load_script("complete_aggregation"))

    def add(
        self, subscription: str, key: str, part: int, text: str, *, part_count: int, timeout: timedelta
    ) -> Literal["completed", "complete", "incomplete"]:
        """Keep a part (numbered from 0) of so many, and tell how the gathering stands. Safe to repeat."""
        name = self._keys.aggregation(subscription, key)
        said: Any = self._add(keys=[name], args=[part, text, part_count, _milliseconds(self._age + timeout)])
        answer: Literal["completed", "complete", "incomplete"] = said
        return answer

    def complete(self, subscription: str, key: str) -> dict[int, str]:
        """Take no more parts; returns those that came, by number. Safe to repeat."""
        found: Any = self._close(keys=[self._keys.aggregation(subscription, key)], args=[_milliseconds(self._age)])
        return {int(part): text for part, text in zip(found[::2], found[1::2], strict=True)}


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
