"""Memories: what was said in each stream, by time.

Promise: a memory is stored once under its key, also after a consolidation removed it. A consolidation keeps the newest
500 of a stream; until then 1,000 are kept. A memory older than one that was dropped is not stored, so a replay adds
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from redis import Redis

from petiole.events.catalog.memory import Consolidation, MemoryItem
from petiole.tasks.stores.scripts import load_script
from petiole.workers.state.keys import StateKeys

MEMORY_RETENTION = timedelta(days=30)
CONSOLIDATED_PER_STREAM = 500
MAX_PER_STREAM = 1_000


_SCRIPTS = "petiole.workers.state.scripts"


class Memories:
    """Memories by stream."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._keep = client.register_script(load_script("keep_memory", _SCRIPTS))
        self._remove = client.register_script(load_script("forget_memories", _SCRIPTS))

    def keep(self, stream_id: str, key: str, recollection: MemoryItem) -> bool:
        """Store a memory under its key. Safe to repeat; returns whether it is new."""
        if recollection.said_by is not None:
            # First, so that a memory is never stored without its user's list of streams, by which it is deleted.
            streams = self._keys.user_streams(recollection.said_by)
            self._client.sadd(streams, stream_id)
            self._client.pexpire(streams, MEMORY_RETENTION)
        at = repr(recollection.said_at.timestamp())
        added: Any = self._keep(
            keys=[*self._names(stream_id), self._keys.memories_to_consolidate],
            args=[key, at, recollection.model_dump_json(), MAX_PER_STREAM, _milliseconds(MEMORY_RETENTION), stream_id],
        )
        return bool(added)

    def read(self, stream_id: str) -> list[MemoryItem]:
        """Read a stream's memories, oldest first."""
        return list(self.read_by_key(stream_id).values())

    def read_by_key(self, stream_id: str) -> dict[str, MemoryItem]:
        """Read a stream's memories by key, oldest first."""
        times, texts, _ = self._names(stream_id)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.zrange(times, 0, -1)
            pipe.hgetall(texts)
            keys, items = pipe.execute()
        return {str(key): MemoryItem.model_validate_json(items[key]) for key in keys}

    def list_removed(self, stream_id: str) -> frozenset[str]:
        """List the keys of the memories of a stream that were forgotten or merged."""
        keys: Any = self._client.zrange(self._keys.memory_removals(stream_id), 0, -1)
        return frozenset(map(str, keys))

    def consolidate(self, stream_id: str) -> Consolidation:
        """Merge repeated statements of a stream into the latest, and drop the oldest above 500. Safe to repeat."""
        memories = self.read_by_key(stream_id)
        merged = _find_duplicates(memories)
        dropped = [key for key in memories if key not in merged][:-CONSOLIDATED_PER_STREAM]
        if removed := [*merged, *dropped]:
            floor = repr(_timestamp(memories[dropped[-1]])) if dropped else ""
            fields = [field for key in removed for field in (key, repr(_timestamp(memories[key])))]
            self._remove(keys=self._names(stream_id), args=[_milliseconds(MEMORY_RETENTION), floor, *fields])
        return Consolidation(examined=len(memories), merged=len(merged), dropped=len(dropped))

    def list_streams(self, user_id: str) -> list[str]:
        """List the streams with memories of a user."""
        stream_ids: Any = self._client.smembers(self._keys.user_streams(user_id))
        return sorted(str(stream_id) for stream_id in stream_ids)

    def forget(self, stream_id: str, memories: Mapping[str, MemoryItem]) -> None:
        """Delete memories of a stream. They are not stored again, such as by a replay. Safe to repeat."""
        if memories:
            fields = [field for key, memory in memories.items() for field in (key, repr(_timestamp(memory)))]
            self._remove(keys=self._names(stream_id), args=[_milliseconds(MEMORY_RETENTION), "", *fields])

    def list_changed(self, limit: int) -> list[str]:
        """List up to `limit` streams with new memories since their last consolidation."""
        stream_ids: Any = self._client.srandmember(self._keys.memories_to_consolidate, limit)
        return sorted(str(stream_id) for stream_id in stream_ids)

    def consolidate_changed(self, stream_id: str) -> Consolidation:
        """Consolidate a stream and remove it from the list; first, so that a memory stored meanwhile adds it again."""
        self._client.srem(self._keys.memories_to_consolidate, stream_id)
        return self.consolidate(stream_id)

    def _names(self, stream_id: str) -> list[str]:
        keys = self._keys
        return [keys.memory_times(stream_id), keys.memory_texts(stream_id), keys.memory_removals(stream_id)]


def _find_duplicates(memories: Mapping[str, MemoryItem]) -> list[str]:
    """List the keys of memories that the same speaker repeated later, ignoring case and whitespace."""
    latest = {_normalize(memory): key for key, memory in memories.items()}
    return [key for key, memory in memories.items() if latest[_normalize(memory)] != key]


def _normalize(memory: MemoryItem) -> tuple[str, str]:
    return memory.role, " ".join(memory.text.casefold().split())


def _timestamp(memory: MemoryItem) -> float:
    return memory.said_at.timestamp()


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
