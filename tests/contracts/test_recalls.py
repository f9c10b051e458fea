"""What everything that finds memories promises, by words or by meaning."""

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
def recall(request, vectors, monkeypatch) -> Retriever:
    monkeypatch.setenv("PETIOLE_RETRIEVAL", request.param)
    return configured_retriever(vectors)


def memories(*texts: str) -> list[MemoryItem]:
    return [MemoryItem(role="user", text=text, said_at=NOON) for text in texts]


def found(recall: Retriever, query: str, *texts: str, limit: int = 10) -> list[str]:
    return [each.text for each in recall.rank(query, memories(*texts), limit)]


def test_it_is_what_was_chosen(recall, monkeypatch):
    assert recall.name in {"keyword", "semantic"}


@pytest.mark.parametrize(
    ("query", "place"), [("Where does my sister live?", 0), ("allergic", 1), ("When is the meeting?", 2)]
)
def test_what_bears_on_a_query_comes_first(recall, query, place):
    assert found(recall, query, *TEXTS)[0] == TEXTS[place]


def test_scores_fall_and_stay_between_nothing_and_one(recall):
    scores = [each.score for each in recall.rank("my sister's meeting in Lisbon", memories(*TEXTS), 10)]

    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


def test_what_has_nothing_to_do_with_it_is_not_found(recall):
    assert found(recall, "the boiling point of tungsten", *TEXTS) == []


def test_of_equals_the_later_comes_first(recall):
    one, other = memories("I like pizza", "I like pizza")
    other = other.model_copy(update={"role": "assistant"})

    assert [each.role for each in recall.rank("pizza", [one, other], 10)] == ["assistant", "user"]


def test_the_limit_holds(recall):
    assert len(found(recall, "pizza", *["I like pizza"] * 5, limit=2)) == 2
    assert found(recall, "pizza", "I like pizza", limit=0) == []


@pytest.mark.parametrize(
    "query", ["", " ", "?!", "\0", "\ud800", "'; DROP TABLE said; --", "x" * 100_000], ids=range(7)
)
def test_any_query_is_answered(recall, query):
    assert isinstance(found(recall, query, *TEXTS), list)


def test_nothing_is_found_in_nothing(recall):
    assert recall.rank("pizza", [], 5) == []


def test_any_memory_is_looked_through(recall):
    assert found(recall, "pizza", " ", "\0", "?", "\ufffd", "I like pizza", "x" * 100_000)[0] == "I like pizza"


# By meaning


@pytest.fixture
def meaning(vectors, monkeypatch) -> Retriever:
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "semantic")
    return configured_retriever(vectors)


def test_meaning_finds_other_words_for_it(meaning):
    texts = ("I bought a Volvo last spring.", "My cat sleeps all day.", "I work night shifts at a hospital.")

    assert found(meaning, "Which car do I drive?", *texts)[0] == texts[0]
    assert found(meaning, "What is my profession?", *texts)[0] == texts[2]


def test_what_is_less_alike_than_the_cutoff_is_left_out(vectors):
    strict = SemanticRetriever(MiniLM.shared(), vectors, cutoff=0.99)

    assert found(strict, "Which car do I drive?", "I drive a car.", "Which car do I drive?") == [
        "Which car do I drive?"
    ]


def test_a_text_is_computed_once_for_all_workers(meaning, vectors, monkeypatch):
    found(meaning, "Where does my sister live?", *TEXTS)
    computed = []
    embed = MiniLM.embed

    def note(self, text):
        computed.append(text)
        return embed(self, text)

    monkeypatch.setattr(MiniLM, "embed", note)

    assert found(configured_retriever(vectors), "When is the meeting?", *TEXTS)[0] == TEXTS[2]
    assert computed == ["When is the meeting?"]


def test_only_the_first_256_tokens_of_a_text_count():
    embed = MiniLM.shared().embed

    assert np.array_equal(embed("pizza " * 254), embed("pizza " * 254 + "Lisbon " * 1_000))
    assert not np.array_equal(embed("pizza " * 253), embed("pizza " * 253 + "Lisbon"))


def test_the_marks_of_the_tokenizer_are_text_where_a_user_writes_them():
    embed = MiniLM.shared().embed

    assert np.array_equal(embed("[SEP] [MASK]"), embed("[ sep ] [ mask ]"))


def test_meaning_without_its_extra_is_refused_by_name(vectors, monkeypatch):
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "semantic")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("petiole.workers.retrieval.find_spec", lambda name: None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"pip install 'petiole\[memory\]'"):
        configured_retriever(vectors)


def test_what_is_no_way_to_recall_is_refused(vectors, monkeypatch):
    monkeypatch.setenv("PETIOLE_RETRIEVAL", "magic")

    with pytest.raises(UsageError, match="'keyword' or 'semantic'"):
        configured_retriever(vectors)


def test_meaning_finds_what_was_asked_for_in_other_words_far_more_often_than_words(vectors):
    memories, questions = read()

    by_words = score(KeywordRetriever(), memories, questions)
    by_meaning = score(SemanticRetriever(MiniLM.shared(), vectors), memories, questions)

    assert (len(memories), len(questions)) == (200, 40)
    assert by_meaning.at_1 >= 0.75, "0.8 when it was measured"
    assert by_meaning.at_1 > by_words.at_1 + 0.5
