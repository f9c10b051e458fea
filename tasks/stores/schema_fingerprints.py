"""Schema fingerprints in presence: which own event types each running worker has, and with which schema.

Promise: after `announce`, every worker that starts later can tell where its types differ. The fingerprints are those of
events/schemas.py. If the server has lost them, the workers that run are not compared until they start again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from petiole.tasks.stores.keys import Keys


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """A type that another process has with another schema, and the schema versions of both."""

    topic: str
    version_here: int
    version_there: int


class SchemaFingerprints:
    """Fingerprints by worker id and topic."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._key = keys.schema_fingerprints

    def announce(self, worker_id: str, fingerprints: Mapping[str, str], living: Collection[str]) -> None:
        """Store a worker's fingerprints, and delete those of workers that are not alive. Safe to repeat."""
        stored: Any = self._client.hkeys(self._key)
        gone = set(stored) - {*living, worker_id}
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hset(self._key, worker_id, json.dumps(fingerprints))
            if gone:
                pipe.hdel(self._key, *gone)
            pipe.execute()

    def read(self, living: Collection[str]) -> dict[str, dict[str, str]]:
        """Read the fingerprints of workers by worker id."""
        stored: Any = self._client.hgetall(self._key)
        return {worker_id: json.loads(text) for worker_id, text in stored.items() if worker_id in living}


def find_differences(here: Mapping[str, str], there: Mapping[str, str]) -> Iterator[SchemaDifference]:
    """Yield the types that both processes have and whose schemas differ, by topic."""
    for topic in sorted(here.keys() & there.keys()):
        if here[topic] != there[topic]:
            version_here, version_there = (int(each[topic].partition(":")[0]) for each in (here, there))
            yield SchemaDifference(topic, version_here, version_there)
