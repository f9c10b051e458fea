"""The contract of retrievers, keyword and semantic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import fakeredis
import numpy as np
import pytest

from petiole.events.catalog.memory import MemoryItem
from petiole.events.errors import UsageError
from petiole.tasks.settings import Settings
from petiole.workers.retrieval import Retriever, configured_retriever
from petiole.workers.retrieval.embedding_model import MiniLM
from petiole.workers.retrieval.keyword import KeywordRetriever
from petiole.workers.retrieval.semantic import SemanticRetriever
from petiole.workers.state import open_team_state
from petiole.workers.state.vectors import EmbeddingStore
from tests.benchmarks.recall import read, score
from tests.support.errors import has_code

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TEXTS = ("My sister lives in Lisbon.", "I am allergic to peanuts.", "The meeting is on Friday at three.")


@pytest.fixture
def vectors() -> Iterator[EmbeddingStore]:
    with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True) as client:
        yield open_team_state(client, Settings()).vectors


@pytest.fixture(params=["keyword", "semantic"])
def retriever(request, vectors, monkeypatch) -> Retriever:
    monkeypatch.setenv("PETIOLE_RETRIEVAL", request.param)
    return configured_retriever(vectors)


def memories(*texts: str) -> list[MemoryItem]:
    return [MemoryItem(role="user", text=text, said_at=NOON) for text in texts]


def ranked_texts(retriever: Retriever, query: str, *texts: str, limit: int = 10) -> list[str]:
    return [match.text for match in retriever.rank(query, memories(*texts), limit)]


def test_the_configured_retriever_is_used(retriever, monkeypatch):
    assert retriever.name in {"keyword", "semantic"}


@pytest.mark.parametrize(
    ("query", "place"), [("Where does my sister live?", 0), ("allergic", 1), ("When is the meeting?", 2)]
)
def test_the_most_relevant_memory_is_first(retriever, query, place):
    assert ranked_texts(retriever, query, *TEXTS)[0] == TEXTS[place]


def test_scores_decrease_and_stay_between_0_and_1(retriever):
    scores = [match.score for match in retriever.rank("my sister's meeting in Lisbon", memories(*TEXTS), 10)]

    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


def test_an_unrelated_query_finds_nothing(retriever):
    assert ranked_texts(retriever, "the boiling point of tungsten", *TEXTS) == []


def test_of_equal_scores_the_later_memory_is_first(retriever):
    one, other = memories("I like pizza", "I like pizza")
    other = other.model_copy(update={"role": "assistant"})

    assert [match.role for match in retriever.rank("pizza", [one, other], 10)] == ["assistant", "user"]


def test_no_more_memories_than_the_limit_are_returned(retriever):
    assert len(ranked_texts(retriever, "pizza", *["I like pizza"] * 5, limit=2)) == 2
    assert ranked_texts(retriever, "pizza", "I like pizza", limit=0) == []


@pytest.mark.parametrize(
    "query", ["", " ", "?!", "\0", "\ud800", "'; DROP TABLE said; --", "x" * 100_000], ids=range(7)
)
def test_any_query_text_returns_a_list(retriever, query):
    assert isinstance(ranked_texts(retriever, query, *TEXTS), list)


def test_no_memories_give_no_results(retriever):
    assert retriever.rank("pizza", [], 5) == []


def test_any_memory_text_is_searched(retriever):
    assert (
        ranked_texts(retriever, "pizza", " ", "\0", "?", "\ufffd", "I like pizza", "x" * 100_000)[0] == "I like pizza"
    )


# Semantic retrieval


@pytest.fixture
def semantic(vectors, monkeypatch) -> Retriever:
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "semantic")
    return configured_retriever(vectors)


def test_semantic_retrieval_finds_synonyms(semantic):
    texts = ("I bought a Volvo last spring.", "My cat sleeps all day.", "I work night shifts at a hospital.")

    assert ranked_texts(semantic, "Which car do I drive?", *texts)[0] == texts[0]
    assert ranked_texts(semantic, "What is my profession?", *texts)[0] == texts[2]


def test_memories_below_the_similarity_cutoff_are_left_out(vectors):
    strict = SemanticRetriever(MiniLM.shared(), vectors, cutoff=0.99)

    assert ranked_texts(strict, "Which car do I drive?", "I drive a car.", "Which car do I drive?") == [
        "Which car do I drive?"
    ]


def test_an_embedding_is_computed_once_for_all_workers(semantic, vectors, monkeypatch):
    ranked_texts(semantic, "Where does my sister live?", *TEXTS)
    computed = []
    embed = MiniLM.embed

    def record_embed(self, text):
        computed.append(text)
        return embed(self, text)

    monkeypatch.setattr(MiniLM, "embed", record_embed)

    assert ranked_texts(configured_retriever(vectors), "When is the meeting?", *TEXTS)[0] == TEXTS[2]
    assert computed == ["When is the meeting?"]


def test_only_the_first_256_tokens_of_a_text_count():
    embed = MiniLM.shared().embed

    assert np.array_equal(embed("pizza " * 254), embed("pizza " * 254 + "Lisbon " * 1_000))
    assert not np.array_equal(embed("pizza " * 253), embed("pizza " * 253 + "Lisbon"))


def test_special_tokens_in_a_users_text_are_plain_text():
    embed = MiniLM.shared().embed

    assert np.array_equal(embed("[SEP] [MASK]"), embed("[ sep ] [ mask ]"))


def test_semantic_retrieval_without_its_extra_is_refused_by_name(vectors, monkeypatch):
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "semantic")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("petiole.workers.retrieval.find_spec", lambda name: None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"pip install 'petiole\[memory\]'"):
        configured_retriever(vectors)


def test_an_unknown_retriever_is_refused(vectors, monkeypatch):
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "magic")

    with pytest.raises(UsageError, match="'keyword' or 'semantic'"):
        configured_retriever(vectors)


def test_semantic_retrieval_finds_paraphrased_questions_far_more_often_than_keywords(vectors):
    memories, questions = read()

    by_words = score(KeywordRetriever(), memories, questions)
    by_meaning = score(SemanticRetriever(MiniLM.shared(), vectors), memories, questions)

    assert (len(memories), len(questions)) == (200, 40)
    assert by_meaning.at_1 >= 0.75, "measured: 0.8"
    assert by_meaning.at_1 > by_words.at_1 + 0.5
