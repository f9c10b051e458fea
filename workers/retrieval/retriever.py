"""Retriever: the interface of memory search. tests/contracts/test_retrieval.py tests all implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from petiole.events.catalog.memory import MemoryItem

EMBEDDING_MODEL: Final = "minilm-l6-v2-int8"
"""The name of the embedding model whose vectors are stored."""


class Retriever(Protocol):
    """Finds the memories that match a query."""

    name: str

    def rank(self, query: str, memories: Sequence[MemoryItem], limit: int) -> list[MemoryItem]:
        """Find at most `limit` memories, best first, the later of equals first, with scores above 0 and up to 1.

        Memories that do not match are left out, so the list may be empty.
        """


class VectorStore(Protocol):
    """A store of embedding vectors (float32) by model and text, shared by all workers."""

    def get(self, model: str, texts: Sequence[str]) -> list[bytes | None]:
        """Read the vectors of texts, in their order; None for a missing vector."""

    def put(self, model: str, vectors: Mapping[str, bytes]) -> None:
        """Store vectors by their texts."""
