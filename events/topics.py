"""Topics, patterns, and the trie that finds who listens.

A topic is one to eight lower-case words joined by dots. A pattern is a topic in which `*` stands for words:

    input.message.received    itself
    input.*                   input and one or more further words
    agent.*.started           exactly one word between
    *                         every topic except those of the error channel

Topics of the error channel (`error.…`) are heard only by patterns that begin with the word `error`: whoever
subscribes to everything does not become an error handler by accident.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator

from petiole.events.errors import invalid_pattern, invalid_topic

ERROR_CHANNEL = "error"
EVERYTHING = "*"

_WORD = r"[a-z0-9][a-z0-9_-]*"
_TOPIC = re.compile(rf"{_WORD}(?:\.{_WORD}){{0,7}}")
_PATTERN = re.compile(rf"(?:{_WORD}|\*)(?:\.(?:{_WORD}|\*)){{0,7}}")
_MAX_LENGTH = 200

Listener = TypeVar("Listener")


def check_topic(topic: str) -> str:
    """Return the topic, or raise UsageError (invalid_topic)."""
    if not is_topic(topic):
        raise invalid_topic(topic)
    return topic


def is_topic(text: str) -> bool:
    """Tell whether the text keeps to the grammar of topics."""
    return len(text) <= _MAX_LENGTH and _TOPIC.fullmatch(text) is not None


Topic = Annotated[str, AfterValidator(check_topic)]


def check_pattern(pattern: str) -> str:
    """Return the pattern, or raise UsageError (invalid_pattern)."""
    if not pattern:
        raise invalid_pattern(pattern, "it is empty")
    if "**" in pattern:
        raise invalid_pattern(pattern, "'**' has no meaning here")
    if len(pattern) > _MAX_LENGTH or not _PATTERN.fullmatch(pattern):
        raise invalid_pattern(pattern, "its words must be lower-case (a-z, 0-9, '_', '-') or '*', joined by dots")
    return pattern


class _Node(Generic[Listener]):
    """One word's place: who listens exactly here, who to all that follows, and the words that go on."""

    __slots__ = ("below", "here", "words")

    def __init__(self) -> None:
        self.here: list[Listener] = []
        self.below: list[Listener] = []
        self.words: dict[str, _Node[Listener]] = {}


class TopicTrie(Generic[Listener]):
    """Patterns with their listeners. The cost of a look-up grows with a topic's words, not with the patterns."""

    def __init__(self) -> None:
        self._root: _Node[Listener] = _Node()

    def add(self, pattern: str, listener: Listener) -> None:
        """Let `listener` hear the pattern. Raises UsageError (invalid_pattern)."""
        words = check_pattern(pattern).split(".")
        hears_all_below = words[-1] == "*"
        node = self._root
        for word in words[:-1] if hears_all_below else words:
            node = node.words.setdefault(word, _Node())
        (node.below if hears_all_below else node.here).append(listener)

    def match(self, topic: str) -> list[Listener]:
        """Return each listener once, however many of its patterns match, in the order they were added per node."""
        found = dict.fromkeys(self._walk(topic.split(".")))
        return list(found)

    def _walk(self, words: list[str]) -> Iterator[Listener]:
        is_error = words[0] == ERROR_CHANNEL
        if not is_error:
            yield from self._root.below
        nodes = [self._root]
        for position, word in enumerate(words):
            wildcard_allowed = position > 0 or not is_error
            nodes = [
                node.words[step]
                for node in nodes
                for step in ((word, "*") if wildcard_allowed else (word,))
                if step in node.words
            ]
            if position < len(words) - 1:
                for node in nodes:
                    yield from node.below
        for node in nodes:
            yield from node.here
