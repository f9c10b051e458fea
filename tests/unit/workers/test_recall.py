"""Which memories are found by words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.memory import MemoryItem
from petiole.events.content import TextContent
from petiole.events.event import EventContext
from petiole.workers.retrieval.candidates import collect_candidates
from petiole.workers.retrieval.keyword import MAX_SEARCH_TERMS, rank_by_keywords, search_terms

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def memories(*texts: str) -> list[MemoryItem]:
    return [MemoryItem(role="user", text=text, said_at=NOON) for text in texts]


def found(query: str, *texts: str, limit: int = 10) -> list[str]:
    return [each.text for each in rank_by_keywords(query, memories(*texts), limit)]


def test_the_best_match_comes_first() -> None:
    texts = ("I like tea.", "My cat likes fish.", "Fish and chips for my cat, please.")

    assert found("what does the cat like to eat with chips?", *texts) == [texts[2], texts[1], texts[0]]


def test_word_forms_are_one_word() -> None:
    assert found("what did I ask you to calculate?", "the calculator found: 84") == ["the calculator found: 84"]


def test_of_equals_the_later_comes_first() -> None:
    assert found("pizza", "pizza on Monday", "pizza on Tuesday") == ["pizza on Tuesday", "pizza on Monday"]


def test_the_score_is_the_share_of_the_query_that_was_found() -> None:
    whole, half = rank_by_keywords("green apples", memories("I ate green apples", "apples are sweet", "bread"), 10)

    assert whole.score == 1
    assert 0 < half.score < 1


def test_a_single_memory_is_found_with_its_whole_score() -> None:
    assert [each.score for each in rank_by_keywords("pizza", memories("I like pizza"), 10)] == [1.0]


@pytest.mark.parametrize("query", ["", "what is", "What's that?", "?!", "did I have it"])
def test_words_that_stand_in_any_sentence_find_nothing(query: str) -> None:
    assert found(query, "what is that?", "did I have it") == []


@pytest.mark.parametrize(
    "query",
    ["pizza AND OR NOT", "pizza*", "text:pizza", "'; DROP TABLE said; pizza", "a\0pizza", "NEAR(pizza, 2)",
     "\ud800 pizza", '^"pizza {', "_ pizza _"],
)  # fmt: skip
def test_any_text_is_only_words(query: str) -> None:
    assert found(query, "I like pizza", "bread") == ["I like pizza"]


def test_names_in_other_scripts_are_found() -> None:
    assert found("Ümit Łódź", "my friend Ümit", "bread") == ["my friend Ümit"]


def test_the_limit_holds() -> None:
    assert len(found("pizza", *["pizza"] * 5, limit=2)) == 2
    assert found("pizza", "pizza", limit=0) == []


def test_nothing_is_found_in_nothing() -> None:
    assert rank_by_keywords("pizza", [], 5) == []


def test_a_long_query_is_known_by_its_first_words() -> None:
    assert len(search_terms(" ".join(f"word{number}" for number in range(10_000)))) == MAX_SEARCH_TERMS


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("STRASSE", "Ich wohne in der Straße der Pariser Kommune"),
        ("Straße", "die strasse ist lang"),
        ("\uff21\uff44\uff41", "My name is Ada"),  # full width
        ("cafe", "das Café am Eck"),
        ("İSTANBUL", "I flew to istanbul"),
        ("私の名前は何ですか", "私の名前はエイダです"),
        ("我叫什么名字", "我的名字叫小明"),
        ("猫", "うちの猫は黒い"),
        ("내 이름이 뭐야?", "제 이름은 에이다입니다"),
        ("ฉันชื่ออะไร", "ฉันชื่อเอดา"),
        ("हिन्दी", "मुझे हिन्दी आती है"),
        ("🍕", "we had 🍕🍕 yesterday"),
        ("👍🏽", "he said 👍"),
    ],
)
def test_a_memory_is_found_in_any_script_width_and_case(query: str, text: str) -> None:
    assert found(query, "bread", text, "パンを買った", "面包") == [text]


def test_a_message_and_what_it_led_to_are_not_its_own_memory() -> None:
    message = TextMessageEvent(stream_id="s-1", content=TextContent(text="hello"))
    own = [
        MemoryItem(role=role, text="hello", said_at=message.timestamp, flow=message.correlation_id)
        for role in ("user", "tool")
    ]
    earlier = MemoryItem(role="user", text="hello", said_at=NOON)

    candidates = collect_candidates({"1": earlier, "2": own[0], "3": own[1]}, [], message)

    assert candidates == [earlier]


def test_who_asks_about_himself_is_not_given_the_words_of_others() -> None:
    message = TextMessageEvent(
        stream_id="s-1", content=TextContent(text="?"), context=EventContext(source="t", user_id="bob")
    )
    of_ada = MemoryItem(role="user", text="My name is Ada", said_at=NOON, said_by="ada")

    assert collect_candidates({"1": of_ada}, [], message, "What is my name?") == []
    assert collect_candidates({"1": of_ada}, [], message, "What did Ada say?") == [of_ada]
