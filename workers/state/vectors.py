"""Vectors: where texts stand in the space of a model that knows meanings.

Promise: none; what is missing is computed again. They are kept by text, so that what several said is computed once.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from redis import Redis

from petiole.workers.state.keys import StateKeys

VECTOR_RETENTION = timedelta(days=30)


class EmbeddingStore:
    """Vectors of float32 by model and text, in the byte order of x86 and ARM."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    def get(self, model: str, texts: Sequence[str]) -> list[bytes | None]:
        """Read the vectors of these texts, in their order; None where one is missing."""
        if not texts:
            return []
        kept: Any = self._client.mget([self._name(model, text) for text in texts])
        return [base64.b64decode(each) if each else None for each in kept]

    def put(self, model: str, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors by their texts."""
        with self._client.pipeline(transaction=False) as pipe:
            for text, vector in vectors.items():
                # As text: the client decodes whatever it reads.
                pipe.set(self._name(model, text), base64.b64encode(vector), ex=VECTOR_RETENTION)
            pipe.execute()

    def _name(self, model: str, text: str) -> str:
        return self._keys.vector(model, sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32])
