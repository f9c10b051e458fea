"""Memories: what was said in each stream, by time.

Promise: a memory kept twice under one key stands there once, also after a clean-up took it away; the newest 500 of a
stream stay, 1,000 until the next clean-up. What is older than anything that had to give way is taken in no more, so
that a replay adds nothing.
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
    """What was said, per stream."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._keep = client.register_script(load_script("keep_memory", _SCRIPTS))
        self._forget = client.register_script(load_script("forget_memories", _SCRIPTS))

    def keep(self, stream_id: str, key: str, recollection: MemoryItem) -> bool:
        """Remember something under a key of its own; returns whether it is new. The same twice is once."""
        at = repr(recollection.said_at.timestamp())
        added: Any = self._keep(
            keys=[*self._names(stream_id), self._keys.memories_to_consolidate],
            args=[key, at, recollection.model_dump_json(), MAX_PER_STREAM, _milliseconds(MEMORY_RETENTION), stream_id],
        )
        return bool(added)

    def read(self, stream_id: str) -> list[MemoryItem]:
        """Read what is remembered of a stream, oldest first."""
        return list(self.read_by_key(stream_id).values())

    def read_by_key(self, stream_id: str) -> dict[str, MemoryItem]:
        """Read what is remembered of a stream under its keys, oldest first."""
        times, texts, _ = self._names(stream_id)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.zrange(times, 0, -1)
            pipe.hgetall(texts)
            keys, kept = pipe.execute()
        return {str(key): MemoryItem.model_validate_json(kept[key]) for key in keys}

    def consolidate(self, stream_id: str) -> Consolidation:
        """Merge what was said twice in a stream, of which the latest stays; drop the oldest above 500. Repeatable."""
        memories = self.read_by_key(stream_id)
        merged = _find_duplicates(memories)
        dropped = [key for key in memories if key not in merged][:-CONSOLIDATED_PER_STREAM]
        if removed := [*merged, *dropped]:
            floor = repr(_timestamp(memories[dropped[-1]])) if dropped else ""
            said = [field for key in removed for field in (key, repr(_timestamp(memories[key])))]
            self._forget(keys=self._names(stream_id), args=[_milliseconds(MEMORY_RETENTION), floor, *said])
        return Consolidation(examined=len(memories), merged=len(merged), dropped=len(dropped))

    def list_changed(self, limit: int) -> list[str]:
        """List streams in which something was kept since their last clean-up, in no order."""
        found: Any = self._client.srandmember(self._keys.memories_to_consolidate, limit)
        return sorted(str(stream_id) for stream_id in found)

    def consolidate_changed(self, stream_id: str) -> Consolidation:
        """Clean a stream up, and take it off the list: before, so that what is kept meanwhile puts it there again."""
        self._client.srem(self._keys.memories_to_consolidate, stream_id)
        return self.consolidate(stream_id)

    def _names(self, stream_id: str) -> list[str]:
        name = self._keys.memories(stream_id)
        return [f"{name}:times", f"{name}:texts", f"{name}:removed"]


def _find_duplicates(memories: Mapping[str, MemoryItem]) -> list[str]:
    """List the keys of what the same speaker said again later, up to case and spaces."""
    latest = {_normalize(each): key for key, each in memories.items()}
    return [key for key, each in memories.items() if latest[_normalize(each)] != key]


def _normalize(memory: MemoryItem) -> tuple[str, str]:
    return memory.role, " ".join(memory.text.casefold().split())


def _timestamp(memory: MemoryItem) -> float:
    return memory.said_at.timestamp()


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
