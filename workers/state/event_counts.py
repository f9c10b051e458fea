"""Occurrences: how often something came of late, and whether that was told.

Promise: of all workers that count one thing, one is told in each cooldown that it came often enough. Time is that of
the events: one that is counted again counts once, and gets the same answer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from redis import Redis

from petiole.tasks.stores.scripts import script
from petiole.workers.state.keys import StateKeys

KEPT = 100
"""Of what comes more often, the latest are counted."""


_SCRIPTS = "petiole.workers.state.scripts"


class Occurrences:
    """Events by what they are an occurrence of."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._notice = client.register_script(script("notice", _SCRIPTS))

    def notice(
        self, what: str, event_id: str, at: datetime, *, enough: int, window: timedelta, cooldown: timedelta
    ) -> int:
        """Count an event; returns how many came within the window, where this is the one to tell of it, and else 0."""
        cooldown = max(cooldown, window)
        # Not the name itself: it holds what users said, in any length.
        digest = sha256(what.encode()).hexdigest()[:32]
        count: Any = self._notice(
            keys=[self._keys.occurrences(digest), self._keys.occurrences_told(digest)],
            args=[
                event_id,
                f"{at.timestamp():.6f}",
                window.total_seconds(),
                cooldown.total_seconds(),
                enough,
                max(KEPT, enough),
                int((window + cooldown).total_seconds() * 1_000),
            ],
        )
        return int(count)
