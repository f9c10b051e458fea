"""Embeddings of texts, cached by model and text.

Promise: none; a missing embedding is computed again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

from redis import Redis

from petiole.workers.retrieval.retriever import EMBEDDING_MODEL
from petiole.workers.state.keys import StateKeys

VECTOR_RETENTION = timedelta(days=30)


class EmbeddingStore:
    """Embeddings of float32, little-endian, by model and text."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    def get(self, model: str, texts: Sequence[str]) -> list[bytes | None]:
        """Read the embeddings of these texts, in their order; None for a missing one."""
        if not texts:
            return []
        encoded: Any = self._client.mget([self._key(model, text) for text in texts])
        return [base64.b64decode(text) if text else None for text in encoded]

    def put(self, model: str, vectors: Mapping[str, bytes]) -> None:
        """Store embeddings by text."""
        with self._client.pipeline(transaction=False) as pipe:
            for text, vector in vectors.items():
                # Base64, because the client decodes all responses as UTF-8.
                pipe.set(self._key(model, text), base64.b64encode(vector), ex=VECTOR_RETENTION)
            pipe.execute()

    def delete(self, texts: Sequence[str]) -> None:
        """Delete the embeddings of these texts."""
        if texts:
            self._client.delete(*(self._key(EMBEDDING_MODEL, text) for text in texts))

    def _key(self, model: str, text: str) -> str:
        return self._keys.vector(model, sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32])
