"""How well memories are found: 200 things said, 40 questions in other words, by words and by meaning.

    python -m tests.benchmarks.recall        needs the extra `memory`

A line of memories.txt is a memory, and behind a tab the question that it answers. recall@1 is the share of the
questions whose memory came first, recall@5 of those whose memory was among the first five.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from petiole.events.catalog.memory import MemoryItem
from petiole.workers.retrieval import Retriever
from petiole.workers.retrieval.embedding_model import MiniLM
from petiole.workers.retrieval.keyword import KeywordRetriever
from petiole.workers.retrieval.semantic import SemanticRetriever

_DATA = Path(__file__).with_name("memories.txt")
_LOOKED_AT = 5


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the place of the memory that answers it."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Score:
    """How often a memory was found, 0 to 1, and how long a question took, in ms."""

    name: str
    at_1: float
    at_5: float
    median_ms: float
    first_ms: float


class Shelf:
    """Vectors in this process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], bytes] = {}

    def get(self, model: str, texts: Sequence[str]) -> list[bytes | None]:
        """Read vectors."""
        return [self._kept.get((model, text)) for text in texts]

    def put(self, model: str, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors."""
        self._kept |= {(model, text): vector for text, vector in vectors.items()}


def read() -> tuple[list[MemoryItem], list[Question]]:
    """Read the memories, and the questions about some of them."""
    lines = [line.split("\t") for line in _DATA.read_text(encoding="utf-8").splitlines()]
    said_at = datetime(2026, 1, 1, tzinfo=UTC)
    memories = [MemoryItem(role="user", text=memory, said_at=said_at) for memory, *_ in lines]
    return memories, [Question(text=rest[0], answer=memory) for memory, *rest in lines if rest]


def score(recall: Retriever, memories: Sequence[MemoryItem], questions: Sequence[Question]) -> Score:
    """Ask all questions."""
    places, times_ms = [], []
    for question in questions:
        began = time.perf_counter()
        found = [each.text for each in recall.rank(question.text, memories, _LOOKED_AT)]
        times_ms.append((time.perf_counter() - began) * 1_000)
        places.append(found.index(question.answer) if question.answer in found else None)
    return Score(
        name=recall.name,
        at_1=sum(place == 0 for place in places) / len(questions),
        at_5=sum(place is not None for place in places) / len(questions),
        median_ms=median(times_ms),
        first_ms=times_ms[0],
    )


def main() -> None:
    """Print both side by side."""
    memories, questions = read()
    table = Table(title=f"{len(memories)} memories, {len(questions)} questions in other words")
    for heading in ("recall", "recall@1", "recall@5", "a question, ms", "the first one, ms"):
        table.add_column(heading, justify="right")
    for recall in (KeywordRetriever(), SemanticRetriever(MiniLM.shared(), Shelf())):
        told = score(recall, memories, questions)
        figures = (f"{told.at_1:.3f}", f"{told.at_5:.3f}", f"{told.median_ms:.1f}", f"{told.first_ms:,.0f}")
        table.add_row(told.name, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
