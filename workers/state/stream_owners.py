"""The user who began a stream through a gateway.

Promise: of users who begin the same stream at the same time, one is its owner, before anything of theirs is published.
"""

from __future__ import annotations

from datetime import timedelta

from redis import Redis

from petiole.workers.state.keys import StateKeys

OWNER_RETENTION = timedelta(days=30)
"""As long as a session is kept after its last activity."""


class StreamOwners:
    """Owners by stream."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    def claim(self, stream_id: str, user_id: str) -> str:
        """Make a user the owner of a stream unless it has one, and return its owner."""
        key = self._keys.stream_owner(stream_id)
        with self._client.pipeline() as pipe:
            pipe.set(key, user_id, nx=True)
            pipe.pexpire(key, OWNER_RETENTION)
            pipe.get(key)
            return str(pipe.execute()[-1])

    def get(self, stream_id: str) -> str | None:
        """Return the owner of a stream; None if nobody began it through a gateway."""
        found = self._client.get(self._keys.stream_owner(stream_id))
        return None if found is None else str(found)
