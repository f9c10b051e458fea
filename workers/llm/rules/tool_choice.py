"""Tool choice: find the tool that a request in English means by its name and description, and its arguments.

    "What is the weather in Oslo?"      weather(city: str)                          city="Oslo"
    "Turn the kitchen light off"        light(room: str, state: "on" | "off")       room="kitchen", state="off"

A tool is meant if the request shares a word with its name, or two with its description. A sentence that is no question
also has to begin with such a word, so that "my order has arrived" orders nothing. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from petiole.events.content import Value
from petiole.workers.llm.provider import ToolDescription
from petiole.workers.llm.rules.number_words import replace_number_words
from petiole.workers.retrieval.keyword import search_terms
from petiole.workers.retrieval.questions import normalize_question

_POLITE: Final = re.compile(
    r"^\W*(?:(?:please|hey|hi|now|then|and|so|ok|can you|could you|would you|will you|i want you to|i would like you to"
    r"|i'd like (?:you )?to|i want to|i need to|i need|i want|let's)[, ]+)*",
    re.IGNORECASE,
)
_PREPOSITIONS = r"in|for|of|about|to|from|at|on|with|by|into|near"
_PHRASE: Final = re.compile(
    rf"\b(?P<preposition>{_PREPOSITIONS})\s+(?:the\s+)?(?P<words>[^?!.,;]+?)"
    rf"(?=\s+(?:{_PREPOSITIONS}|please|now|today|tomorrow|yesterday|tonight|right)\b|[?!.,;]|$)",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile("[\"'\u201c\u2018]([^\"'\u201d\u2019]+)[\"'\u201d\u2019]")
_NUMBER: Final = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
_MIN_STEM_LENGTH: Final = 3
_ENDINGS: Final = ("ing", "ies", "ed", "es", "s", "e", "y")


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """A tool with its arguments, and the required arguments that the request does not give."""

    tool: str
    arguments: dict[str, Value] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def choose_tool(text: str, tools: Sequence[ToolDescription]) -> ToolChoice | None:
    """Choose the tool that a request means; None if it means none, or several alike."""
    plain = _POLITE.sub("", text.replace("\u2019", "'")).strip()
    scores = {tool.name: _score(plain, tool) for tool in tools}
    best = max(scores.values(), default=0)
    chosen = [tool for tool in tools if scores[tool.name] == best]
    if best < _MIN_SCORE or len(chosen) != 1:
        return None
    arguments, missing = _read_arguments(plain, chosen[0])
    return ToolChoice(chosen[0].name, arguments, missing)


_MIN_SCORE = 2


def _score(text: str, tool: ToolDescription) -> int:
    terms = {_stem(term) for term in search_terms(text)}
    names, described = _name_words(tool), {_stem(term) for term in search_terms(tool.description or "")}
    first = _stem(text.split(maxsplit=1)[0].casefold().strip(".,!?")) if text.split() else ""
    if not normalize_question(text) and first not in names | described:
        return 0
    return 2 * len(terms & names) + len(terms & (described - names))


def _name_words(tool: ToolDescription) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", tool.name)
    return {_stem(word) for word in re.split(r"[\W_]+", spaced.casefold()) if len(word) > 1}


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _MIN_STEM_LENGTH:
            return word.removesuffix(ending)
    return word


def _read_arguments(text: str, tool: ToolDescription) -> tuple[dict[str, Value], tuple[str, ...]]:
    given: object = tool.parameters
    schema = given if isinstance(given, Mapping) else {}
    properties = schema.get("properties")
    required = schema.get("required")
    fields = properties if isinstance(properties, Mapping) else {}
    needed = [name for name in required if isinstance(name, str)] if isinstance(required, list | tuple) else []
    reader = _ArgumentReader(text, tool)
    arguments: dict[str, Value] = {}
    # First what can only be one thing, so that "off" is not taken for a room.
    for name in sorted(fields, key=lambda name: _order(fields[name])):
        value = reader.read(str(name), fields[name], is_required=name in needed)
        if value is not None:
            arguments[str(name)] = value
    return arguments, tuple(name for name in needed if name not in arguments)


def _order(schema: object) -> int:
    return 0 if _choices(schema) else 1 if _type(schema) in {"integer", "number"} else 2


class _ArgumentReader:
    """Reads arguments from a request; each word is used once."""

    def __init__(self, text: str, tool: ToolDescription) -> None:
        self._text = replace_number_words(text)
        self._tool_words = _name_words(tool)
        self._first = text.split(maxsplit=1)[0] if text.split() else ""

    def read(self, name: str, schema: object, *, is_required: bool) -> Value:
        if choices := _choices(schema):
            return self._take_choice(choices)
        if _type(schema) in {"integer", "number"}:
            return self._take_number(is_integer=_type(schema) == "integer")
        if _type(schema) == "string":
            return self._take_quoted() or self._take_phrase(name) or (self._take_rest() if is_required else None)
        return None

    def _take_choice(self, choices: Sequence[str]) -> str | None:
        for choice in choices:
            if match := re.search(rf"\b{re.escape(choice)}\b", self._text, re.IGNORECASE):
                self._remove(match)
                return choice
        return None

    def _take_number(self, *, is_integer: bool) -> int | float | None:
        match = _NUMBER.search(self._text)
        if match is None or (is_integer and "." in match[0]) or len(match[0]) > 18:  # noqa: PLR2004 - 64 bits
            return None
        self._remove(match)
        return int(match[0]) if is_integer else float(match[0])

    def _take_quoted(self) -> str | None:
        match = _QUOTED.search(self._text)
        if match is None:
            return None
        self._remove(match)
        return match[1].strip() or None

    def _take_phrase(self, name: str) -> str | None:
        phrases = list(_PHRASE.finditer(self._text))
        named = [phrase for phrase in phrases if phrase["preposition"].lower() in name.casefold().split("_")]
        for phrase in [*named, *phrases]:
            if {_stem(word.casefold()) for word in phrase["words"].split()} - self._tool_words:
                self._remove(phrase)
                return phrase["words"].strip()
        return None

    def _take_rest(self) -> str | None:
        words = [word for word in self._rest() if word != self._first]
        return " ".join(words) or None

    def _rest(self) -> Iterator[str]:
        terms = set(search_terms(self._text))
        for word in re.findall(r"[\w'-]+", self._text):
            if word.casefold() in terms and _stem(word.casefold()) not in self._tool_words:
                yield word

    def _remove(self, match: re.Match[str]) -> None:
        self._text = f"{self._text[: match.start()]} {self._text[match.end() :]}"


def _choices(schema: object) -> list[str]:
    values = _plain(schema).get("enum")
    return [value for value in values if value and isinstance(value, str)] if isinstance(values, list | tuple) else []


def _type(schema: object) -> str:
    """Return the type of a schema, of several the first that is not null; "" if there is none."""
    types = _plain(schema).get("type")
    types = types if isinstance(types, list | tuple) else [types]
    return next((name for name in types if isinstance(name, str) and name != "null"), "")


def _plain(schema: object) -> Mapping[str, object]:
    """Return a schema; of alternatives, such as a string or null, the first that is not null."""
    if not isinstance(schema, Mapping):
        return {}
    alternatives = schema.get("anyOf")
    if isinstance(alternatives, list | tuple):
        return next((part for part in alternatives if isinstance(part, Mapping) and part.get("type") != "null"), {})
    return schema
