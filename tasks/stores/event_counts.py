"""Counts of events, deliveries and used tokens since the first one, shared by all processes.

Promise: the amounts of one call are added in one step, and no number of event types, subscriptions or models makes the
counts grow beyond their limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import Script

MAX_NAMES = 200
"""How many event types, how many subscriptions, and how many models have a count of their own."""

OTHER = "other"
"""The label of all beyond."""

_MAX_NAME_LENGTH = 128

_BOUNDED = ("event_type", "subscription", "model")


class EventCount(NamedTuple):
    """The name of one count; a part that does not apply is empty."""

    family: str
    event_type: str = ""
    subscription: str = ""
    detail: str = ""
    model: str = ""


class MetricCounts:
    """Amounts by name."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._add = Script(client, "count_events")

    def add(self, amounts: Mapping[EventCount, float]) -> None:
        """Add amounts."""
        rows = [
            (*count._replace(**{name: _clean(getattr(count, name)) for name in _BOUNDED}), f"{amount:.9g}")
            for count, amount in amounts.items()
        ]
        self._add((json.dumps({"counts": self._keys.event_counts, "limit": MAX_NAMES, "rows": rows}),))

    def all(self) -> dict[EventCount, float]:
        """Read all amounts."""
        amounts: Any = self._client.hgetall(self._keys.event_counts)
        return {EventCount(*name.split(" ")): float(amount) for name, amount in amounts.items()}


def _clean(name: str) -> str:
    """Return a name without spaces, which separate the parts of a count's name in the store, and without surrogates."""
    return "_".join(name.split())[:_MAX_NAME_LENGTH].encode(errors="replace").decode()
