from __future__ import annotations

import pytest

from petiole.events import TopicTrie
from petiole.events.errors import UsageError
from petiole.events.topics import check_pattern, check_topic
from tests.support.errors import has_code


def hears(pattern: str, topic: str) -> bool:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, "listener")
    return trie.match(topic) == ["listener"]


class CountedWords(dict[str, object]):
    """Words of a node, counting each time one is looked up."""

    lookups = 0

    def __contains__(self, word: object) -> bool:
        CountedWords.lookups += 1
        return super().__contains__(word)


def lookups_to_match(trie: TopicTrie[int], topic: str) -> int:
    """Count how many words the trie looks up in its nodes to match a topic."""
    _count_words_of(trie._root)
    CountedWords.lookups = 0
    trie.match(topic)
    return CountedWords.lookups


def _count_words_of(node: object) -> None:
    words: dict[str, object] = node.words  # type: ignore[attr-defined]  # the trie's nodes have no public type
    for child in words.values():
        _count_words_of(child)
    node.words = CountedWords(words)  # type: ignore[attr-defined]  # as above


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("input.message.received", "input.message.received"),
        ("input", "input"),
        ("input.*", "input.message"),
        ("input.*", "input.message.received"),
        ("input.*", "input.a.b.c"),
        ("input.message.*", "input.message.received"),
        ("agent.*.started", "agent.memory.started"),
        ("a.*.b", "a.x.b"),
        ("a.*.*.b", "a.x.y.b"),
        ("*.message.received", "input.message.received"),
        ("*.*", "input.message"),
        ("*.*", "input.message.received"),
        ("a.*.b.*", "a.x.b.y.z"),
        ("*", "input"),
        ("*", "a.b.c.d.e"),
        ("error.*", "error.dead_lettered"),
        ("error.*", "error.agent.memory"),
        ("error.*.memory", "error.agent.memory"),
        ("error.reported", "error.reported"),
    ],
)
def test_a_pattern_hears(pattern: str, topic: str) -> None:
    assert hears(pattern, topic)


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("input.*", "input"),
        ("input.*", "inputs.x"),
        ("input.*", "my.input.x"),
        ("input.message", "input.message.received"),
        ("input.message.received", "input.message"),
        ("a.*.b", "a.b"),
        ("a.*.b", "a.x.y.b"),
        ("a.*.b", "a.x.b.c"),
        ("a.*.b", "a.x.c"),
        ("*.*", "input"),
        ("*.message", "input.message.received"),
    ],
)
def test_a_pattern_does_not_hear(pattern: str, topic: str) -> None:
    assert not hears(pattern, topic)


@pytest.mark.parametrize("pattern", ["*", "*.*", "*.reported", "*.*.memory"])
@pytest.mark.parametrize("topic", ["error.reported", "error.agent.memory", "error"])
def test_only_a_pattern_that_begins_with_the_word_error_hears_the_error_channel(pattern: str, topic: str) -> None:
    assert not hears(pattern, topic)


def test_a_word_that_only_begins_like_error_is_not_of_the_error_channel() -> None:
    assert hears("*", "errors.counted")
    assert hears("*", "agent.error")


def test_a_listener_with_two_matching_patterns_is_found_once() -> None:
    trie: TopicTrie[str] = TopicTrie()
    for pattern in ("*", "input.*", "input.*.received", "input.message.received", "input.message.received"):
        trie.add(pattern, "memory")

    assert trie.match("input.message.received") == ["memory"]


def test_every_listener_of_a_topic_is_found() -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add("*", "proactive")
    trie.add("input.*", "memory")
    trie.add("input.*", "orchestrator")
    trie.add("input.audio.chunk", "listening")
    trie.add("output.*", "archive")

    assert set(trie.match("input.message.received")) == {"proactive", "memory", "orchestrator"}
    assert set(trie.match("input.audio.chunk")) == {"proactive", "memory", "orchestrator", "listening"}


def test_an_empty_trie_finds_nobody() -> None:
    trie: TopicTrie[str] = TopicTrie()

    assert trie.match("input.message.received") == []


def test_the_work_of_a_look_up_does_not_grow_with_patterns_that_do_not_match() -> None:
    small: TopicTrie[int] = TopicTrie()
    small.add("input.*", 0)
    small.add("input.*.received", 1)
    large: TopicTrie[int] = TopicTrie()
    large.add("input.*", 0)
    large.add("input.*.received", 1)
    for number in range(2, 5_000):
        large.add(f"agent-{number}.*", number)
        large.add(f"input.word-{number}.received", number)
        large.add(f"input.*.word-{number}", number)

    few, many = (lookups_to_match(trie, "input.message.received") for trie in (small, large))

    assert large.match("input.message.received") == [0, 1]
    assert 0 < few == many


@pytest.mark.parametrize(
    "topic",
    ["input", "input.message.received", "a.b.c.d.e.f.g.h", "agent-1.state_2.updated", "0.1", "a" * 200],
)
def test_a_topic_is_one_to_eight_lower_case_words(topic: str) -> None:
    assert check_topic(topic) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "",
        ".",
        "input.",
        ".input",
        "Input..x",
        "Input.message",
        "input..message",
        "input message",
        "input.message\n",
        "input.*",
        "*",
        "a.*.b",
        "-input",
        "_input",
        "input.é",
        "a.b.c.d.e.f.g.h.i",
        "a" * 201,
    ],
)
def test_what_is_no_topic_is_refused_with_how_to_write_one(topic: str) -> None:
    with pytest.raises(UsageError, check=has_code("invalid_topic")) as caught:
        check_topic(topic)

    assert repr(topic) in str(caught.value)
    assert "such as 'order.payment.received'" in str(caught.value)


@pytest.mark.parametrize("pattern", ["*", "input.*", "a.*.b", "*.*", "*.started", "input", "a.b.c.d.e.f.g.*"])
def test_a_pattern_is_a_topic_in_which_stars_may_stand_for_words(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "it is empty"),
        ("**", "'**' is not supported"),
        ("input.**", "'**' is not supported"),
        ("input*", "its words must be lower-case"),
        ("input.mess*", "its words must be lower-case"),
        ("Input.*", "its words must be lower-case"),
        ("input..*", "its words must be lower-case"),
        ("input.", "its words must be lower-case"),
        ("input.#", "its words must be lower-case"),
        ("*\n", "its words must be lower-case"),
        ("a.b.c.d.e.f.g.h.*", "its words must be lower-case"),
        ("a" * 201, "its words must be lower-case"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason_and_how_to_write_one(pattern: str, reason: str) -> None:
    trie: TopicTrie[str] = TopicTrie()

    with pytest.raises(UsageError, check=has_code("invalid_pattern")) as caught:
        trie.add(pattern, "listener")

    assert f"pattern {pattern!r} is invalid: {reason}" in str(caught.value)
    assert "'*' for all topics" in str(caught.value)
