"""Occurrences: how often something came of late, and whether that was told.

Promise: of all workers that count one thing, one is told in each cooldown that it came often enough. Time is that of
the events: one that is counted again counts once, and gets the same answer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from redis import Redis

from petiole.tasks.stores.scripts import load_script
from petiole.workers.state.keys import StateKeys

MAX_COUNTED_EVENTS = 100
"""Of what comes more often, the latest are counted."""


_SCRIPTS = "petiole.workers.state.scripts"


class EventCounts:
    """Events by what they are an occurrence of."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._notice = client.register_script(load_script("count_event", _SCRIPTS))

    def count(
        self, name: str, event_id: str, at: datetime, *, threshold: int, window: timedelta, cooldown: timedelta
    ) -> int:
        """Count an event; returns how many came within the window, where this is the one to tell of it, and else 0."""
        cooldown = max(cooldown, window)
        # Not the name itself: it holds what users said, in any length.
        digest = sha256(name.encode()).hexdigest()[:32]
        count: Any = self._notice(
            keys=[self._keys.event_counts(digest), self._keys.event_counts_reported(digest)],
            args=[
                event_id,
                f"{at.timestamp():.6f}",
                window.total_seconds(),
                cooldown.total_seconds(),
                threshold,
                max(MAX_COUNTED_EVENTS, threshold),
                int((window + cooldown).total_seconds() * 1_000),
            ],
        )
        return int(count)
