"""Event counts: how often similar events occurred within a window, to report patterns.

Promise: over all workers, a count that reaches the threshold is reported once per cooldown. Times are those of the
events. An event counted again counts once and gets the same result.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from redis import Redis

from petiole.tasks.stores.scripts import load_script
from petiole.workers.state.keys import StateKeys

MAX_COUNTED_EVENTS = 100
"""Only the latest ones are counted."""


_SCRIPTS = "petiole.workers.state.scripts"


class EventCounts:
    """Counted events, by name."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._count_event = client.register_script(load_script("count_event", _SCRIPTS))

    def count(
        self, name: str, event_id: str, at: datetime, *, threshold: int, window: timedelta, cooldown: timedelta
    ) -> int:
        """Count an event. Returns the count within the window if this event has to report it, else 0."""
        cooldown = max(cooldown, window)
        # Hashed, because the name contains text of users, of any length.
        digest = sha256(name.encode()).hexdigest()[:32]
        count: Any = self._count_event(
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
