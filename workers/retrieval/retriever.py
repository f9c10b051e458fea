"""Recall: what everything that finds memories has in common. tests/contracts/test_retrieval.py holds all to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from petiole.events.catalog.memory import MemoryItem


class Retriever(Protocol):
    """Tells which memories bear on a query."""

    name: str

    def rank(self, query: str, memories: Sequence[MemoryItem], limit: int) -> list[MemoryItem]:
        """Choose at most `limit` memories, best first, of equals the later. Each has its score, above 0 and up to 1.

        What does not bear on the query is left out, so that the list may be empty.
        """


class VectorStore(Protocol):
    """Keeps what was computed, for all workers: vectors of float32 by model and text."""

    def get(self, model: str, texts: Sequence[str]) -> list[bytes | None]:
        """Read the vectors of these texts, in their order; None where one is missing."""

    def put(self, model: str, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors by their texts."""
