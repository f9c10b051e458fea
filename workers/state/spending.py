"""Spending: what model answers cost each conversation, user and account within a window of time.

Promise: concurrent reservations together never exceed a cap. Amounts are whole millionths of a dollar. Windows follow
one another from 1970 on, so the default of a day begins at 00:00 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from redis import Redis

from petiole.workers.state.keys import StateKeys


class Spending:
    """Amounts by owner and window."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    def reserve(self, caps: Mapping[str, int], amount: int, *, now_s: float, window_s: float) -> str | None:
        """Add an amount to all owners, unless that exceeds the cap of one of them: then return that owner."""
        totals = self.add(list(caps), amount, now_s=now_s, window_s=window_s)
        exceeded = next((owner for owner, cap in caps.items() if totals[owner] > cap), None)
        if exceeded is not None:
            self.add(list(caps), -amount, now_s=now_s, window_s=window_s)
        return exceeded

    def add(self, owners: list[str], amount: int, *, now_s: float, window_s: float) -> dict[str, int]:
        """Add an amount, which may be negative, and return the totals."""
        with self._client.pipeline(transaction=True) as pipe:
            for owner in owners:
                key = self._key(owner, now_s, window_s)
                pipe.incrby(key, amount)
                pipe.expire(key, int(2 * window_s) + 1)
            totals: list[Any] = pipe.execute()
        return dict(zip(owners, map(int, totals[::2]), strict=True))

    def _key(self, owner: str, now_s: float, window_s: float) -> str:
        # Hashed, because the name contains the id of a user or a stream, of any length.
        digest = sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._keys.spending(digest, int(now_s // window_s))
