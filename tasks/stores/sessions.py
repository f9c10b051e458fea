"""Sessions: which streams are open.

Promise: of all that try to open one stream, however many at once, one is told that it did.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from redis import Redis

from tasks.stores.keys import Keys

AGE = timedelta(days=30)


class Sessions:
    """Open streams."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def open(self, stream_id: str) -> bool:
        """Open a stream unless it is open; returns whether this call opened it."""
        opened = self._client.set(self._keys.session(stream_id), datetime.now(UTC).isoformat(), nx=True, px=AGE)
        if not opened:
            self._client.pexpire(self._keys.session(stream_id), AGE)
        return bool(opened)
