"""Semantic retrieval: rank memories by the similarity of their embeddings to the query's. Needs the extra `memory`.

"Which car do I drive?" finds "I bought a Volvo". The model reads English: a query in a script without spaces is
searched by keywords. The embedding of a text is computed at its first search, in about 6 ms, and stored for all
workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from petiole.events.catalog.memory import MemoryItem
from petiole.workers.retrieval.keyword import rank_by_keywords
from petiole.workers.retrieval.retriever import VectorStore
from petiole.workers.retrieval.search_text import is_unspaced


class Embedder(Protocol):
    """An embedding model whose vectors have length 1."""

    name: str
    dimensions: int

    def embed(self, text: str) -> NDArray[np.float32]:
        """Compute the embedding of a text; shape (dimensions,)."""


class SemanticRetriever:
    """Finds memories with a similar meaning, also in other words."""

    name = "semantic"

    def __init__(self, embedder: Embedder, vectors: VectorStore, cutoff: float = 0.25) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self._cutoff = cutoff

    def rank(self, query: str, memories: Sequence[MemoryItem], limit: int) -> list[MemoryItem]:
        """Rank the memories whose cosine similarity to the query, which is their score, reaches the cutoff."""
        if is_unspaced(query):
            return rank_by_keywords(query, memories, limit)
        indices = [index for index, memory in enumerate(memories) if _has_letters_or_digits(memory.text)]
        if not indices or limit <= 0 or not _has_letters_or_digits(query):
            return []
        similarities = self._vectors_of([memories[index].text for index in indices]) @ self._embedder.embed(query)
        scores = dict(zip(indices, np.minimum(similarities, 1.0).tolist(), strict=True))
        matches = [index for index, score in scores.items() if score >= self._cutoff and score > 0]
        best = sorted(matches, key=lambda index: (scores[index], index), reverse=True)[:limit]
        return [memories[index].model_copy(update={"score": scores[index]}) for index in best]

    def _vectors_of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Read the stored vectors, and compute the missing ones; shape (texts, dimensions)."""
        stored = dict(zip(texts, self._vectors.get(self._embedder.name, texts), strict=True))
        computed = {text: self._embedder.embed(text).tobytes() for text, vector in stored.items() if not vector}
        if computed:
            self._vectors.put(self._embedder.name, computed)
        joined = b"".join(computed.get(text) or stored[text] or b"" for text in texts)
        return np.frombuffer(joined, dtype=np.float32).reshape(len(texts), self._embedder.dimensions)


def _has_letters_or_digits(text: str) -> bool:
    # The model gives texts without words similar embeddings, which are also close to those of short texts.
    return any(character.isalnum() for character in text)
