"""Compare keyword and semantic retrieval: 200 memories, 40 questions that use other words than their memories.

    python -m tests.benchmarks.recall        needs the extra `memory`

A line of memories.txt contains a memory and optionally, after a tab, a question that it answers. recall@1 is the share
of questions whose memory was ranked first, recall@5 the share of those whose memory was among the first five.
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
_RANKED = 5


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the text of the memory that answers it."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Score:
    """The recall, 0 to 1, and the time of a question, in ms."""

    name: str
    at_1: float
    at_5: float
    median_ms: float
    first_ms: float


class InMemoryVectors:
    """Vectors in this process."""

    def __init__(self) -> None:
        self._vectors: dict[tuple[str, str], bytes] = {}

    def get(self, model: str, texts: Sequence[str]) -> list[bytes | None]:
        """Read vectors."""
        return [self._vectors.get((model, text)) for text in texts]

    def put(self, model: str, vectors: Mapping[str, bytes]) -> None:
        """Store vectors."""
        self._vectors |= {(model, text): vector for text, vector in vectors.items()}


def read() -> tuple[list[MemoryItem], list[Question]]:
    """Read the memories and the questions."""
    lines = [line.split("\t") for line in _DATA.read_text(encoding="utf-8").splitlines()]
    said_at = datetime(2026, 1, 1, tzinfo=UTC)
    memories = [MemoryItem(role="user", text=memory, said_at=said_at) for memory, *_ in lines]
    return memories, [Question(text=rest[0], answer=memory) for memory, *rest in lines if rest]


def score(retriever: Retriever, memories: Sequence[MemoryItem], questions: Sequence[Question]) -> Score:
    """Rank the memories for every question, and measure recall and time."""
    places, times_ms = [], []
    for question in questions:
        began = time.perf_counter()
        ranked = [memory.text for memory in retriever.rank(question.text, memories, _RANKED)]
        times_ms.append((time.perf_counter() - began) * 1_000)
        places.append(ranked.index(question.answer) if question.answer in ranked else None)
    return Score(
        name=retriever.name,
        at_1=sum(place == 0 for place in places) / len(questions),
        at_5=sum(place is not None for place in places) / len(questions),
        median_ms=median(times_ms),
        first_ms=times_ms[0],
    )


def main() -> None:
    """Print the scores of both retrievers."""
    memories, questions = read()
    table = Table(title=f"{len(memories)} memories, {len(questions)} questions")
    for heading in ("retriever", "recall@1", "recall@5", "median, ms", "first question, ms"):
        table.add_column(heading, justify="right")
    for retriever in (KeywordRetriever(), SemanticRetriever(MiniLM.shared(), InMemoryVectors())):
        result = score(retriever, memories, questions)
        figures = (f"{result.at_1:.3f}", f"{result.at_5:.3f}", f"{result.median_ms:.1f}", f"{result.first_ms:,.0f}")
        table.add_row(result.name, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
