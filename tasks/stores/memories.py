"""Memories: what was said in each stream, by time.

Promise: a memory kept twice under one key stands there once; the newest 500 of a stream stay.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel
from redis import Redis

from events.catalog.memory import Recollection
from tasks.stores.keys import Keys

AGE = timedelta(days=30)
KEPT_PER_STREAM = 500


class _Kept(BaseModel):
    key: str
    recollection: Recollection


class Memories:
    """What was said, per stream."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def keep(self, stream_id: str, key: str, recollection: Recollection) -> None:
        """Remember something under a key of its own; the same twice is once."""
        name = self._keys.memories(stream_id)
        kept = _Kept(key=key, recollection=recollection).model_dump_json()
        with self._client.pipeline(transaction=True) as pipe:
            pipe.zadd(name, {kept: recollection.said_at.timestamp()}, nx=True)
            pipe.zremrangebyrank(name, 0, -KEPT_PER_STREAM - 1)
            pipe.pexpire(name, AGE)
            pipe.execute()

    def of(self, stream_id: str) -> list[Recollection]:
        """Read what is remembered of a stream, oldest first."""
        members = self._client.zrange(self._keys.memories(stream_id), 0, -1)
        return [_Kept.model_validate_json(str(member)).recollection for member in members]
