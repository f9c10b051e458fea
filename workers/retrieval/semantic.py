"""Rank recollections by what they mean: the likeness of their vectors to the query's.

"Which car do I drive?" finds "I bought a Volvo". Each text is computed once for all workers, when it is first looked
through: about 6 ms; what is kept is read back. Needs the extra `memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from petiole.events.catalog.memory import Recollection
from petiole.workers.retrieval.retriever import Vectors


class Embedder(Protocol):
    """A model that gives texts their place among meanings: vectors of length 1."""

    name: str
    dimensions: int

    def embed(self, text: str) -> NDArray[np.float32]:
        """Compute the vector of a text; shape (dimensions,)."""


class Meaning:
    """Finds what is meant, in other words too."""

    name = "semantic"

    def __init__(self, embedder: Embedder, vectors: Vectors, cutoff: float = 0.25) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self._cutoff = cutoff

    def rank(self, query: str, memories: Sequence[Recollection], limit: int) -> list[Recollection]:
        """Choose the memories whose meaning is like the query's; the score is the cosine of the angle in between."""
        places = [place for place, each in enumerate(memories) if _says_something(each.text)]
        if not places or limit <= 0 or not _says_something(query):
            return []
        likeness = self._vectors_of([memories[place].text for place in places]) @ self._embedder.embed(query)
        scores = dict(zip(places, np.minimum(likeness, 1.0).tolist(), strict=True))
        found = [place for place, score in scores.items() if score >= self._cutoff and score > 0]
        best = sorted(found, key=lambda place: (scores[place], place), reverse=True)[:limit]
        return [memories[place].model_copy(update={"score": scores[place]}) for place in best]

    def _vectors_of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Read the vectors, and compute those that are missing; shape (texts, dimensions)."""
        kept = dict(zip(texts, self._vectors.get(self._embedder.name, texts), strict=True))
        computed = {text: self._embedder.embed(text).tobytes() for text, vector in kept.items() if not vector}
        if computed:
            self._vectors.put(self._embedder.name, computed)
        whole = b"".join(computed.get(text) or kept[text] or b"" for text in texts)
        return np.frombuffer(whole, dtype=np.float32).reshape(len(texts), self._embedder.dimensions)


def _says_something(text: str) -> bool:
    # To the model, texts without a word are alike, and much like any short one.
    return any(sign.isalnum() for sign in text)
