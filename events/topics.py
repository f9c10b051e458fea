"""Topics, patterns, and the trie that matches them.

A topic is one to eight lower-case words joined by dots. A pattern is a topic in which `*` is a wildcard:

    input.message.received    only this topic
    input.*                   input and one or more further words
    agent.*.started           exactly one word in between
    *                         every topic except those of the error channel

Only patterns that start with the word `error` match topics of the error channel (`error.…`), so that a subscription to
all topics does not become an error handler by accident.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, Field

from petiole.events.errors import invalid_pattern, invalid_topic

ERROR_FAMILY = "error"
ALL_TOPICS = "*"

_WORD = r"[a-z0-9][a-z0-9_-]*"
_TOPIC = re.compile(rf"{_WORD}(?:\.{_WORD}){{0,7}}")
_PATTERN = re.compile(rf"(?:{_WORD}|\*)(?:\.(?:{_WORD}|\*)){{0,7}}")
_MAX_LENGTH = 200

Listener = TypeVar("Listener")


def check_topic(topic: object) -> str:
    """Return the topic, or raise UsageError (invalid_topic)."""
    if not isinstance(topic, str) or not is_topic(topic):
        raise invalid_topic(topic)
    return topic


def is_topic(text: object) -> bool:
    """Return whether the text is a valid topic."""
    return isinstance(text, str) and len(text) <= _MAX_LENGTH and _TOPIC.fullmatch(text) is not None


Topic = Annotated[str, Field(strict=True), AfterValidator(check_topic)]


def check_pattern(pattern: object) -> str:
    """Return the pattern, or raise UsageError (invalid_pattern)."""
    if not isinstance(pattern, str):
        raise invalid_pattern(pattern, "it is no text")
    if not pattern:
        raise invalid_pattern(pattern, "it is empty")
    if "**" in pattern:
        raise invalid_pattern(pattern, "'**' is not supported")
    if len(pattern) > _MAX_LENGTH or not _PATTERN.fullmatch(pattern):
        raise invalid_pattern(pattern, "its words must be lower-case (a-z, 0-9, '_', '-') or '*', joined by dots")
    return pattern


def list_matching_patterns(topic: str) -> list[str]:
    """List every pattern that matches a topic: at most 383, of a topic of three words eleven."""
    patterns: list[str] = []
    beginnings, ends = [""], [""]
    for word in topic.split("."):
        choices = [word]
        if beginnings != [""] or word != ERROR_FAMILY:
            choices.append("*")
            patterns += [f"{beginning}*" for beginning in beginnings]
        ends = [beginning + word for beginning in beginnings]
        beginnings = [f"{beginning}{choice}." for beginning in beginnings for choice in choices]
    return patterns + ends


class _Node(Generic[Listener]):
    """A trie node: `here` matches exactly this path, `below` all longer paths, `words` has the children."""

    __slots__ = ("below", "here", "words")

    def __init__(self) -> None:
        self.here: list[Listener] = []
        self.below: list[Listener] = []
        self.words: dict[str, _Node[Listener]] = {}


class TopicTrie(Generic[Listener]):
    """Patterns with their listeners. A look-up costs time by the topic's words, not by the number of patterns."""

    def __init__(self) -> None:
        self._root: _Node[Listener] = _Node()

    def add(self, pattern: str, listener: Listener) -> None:
        """Add a listener for the pattern. Raises UsageError (invalid_pattern)."""
        words = check_pattern(pattern).split(".")
        hears_all_below = words[-1] == "*"
        node = self._root
        for word in words[:-1] if hears_all_below else words:
            node = node.words.setdefault(word, _Node())
        (node.below if hears_all_below else node.here).append(listener)

    def match(self, topic: str) -> list[Listener]:
        """Return each matching listener once, in the order in which they were added per node."""
        return list(dict.fromkeys(self._walk(topic.split("."))))

    def _walk(self, words: list[str]) -> Iterator[Listener]:
        is_error = words[0] == ERROR_FAMILY
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
