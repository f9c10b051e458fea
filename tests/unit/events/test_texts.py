"""Any error can be recorded: nothing that it says or does as it is asked keeps its record from being written."""

from __future__ import annotations

import json
import sys

import pytest

from petiole.events.dead_letter import fingerprint
from petiole.events.errors import Permanent, error_type_of
from petiole.events.texts import MAX_TEXT_LENGTH, MAX_TRACEBACK_LENGTH, error_text, safe_text, traceback_text


class WordlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class ExitingError(Exception):
    def __str__(self) -> str:  # noqa: PLE0307 - as a handler's error may
        sys.exit(1)


class NoTextError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - as a handler's error may


class TrickyText(str):
    __slots__ = ()

    def __getitem__(self, key: object) -> str:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError

    def encode(self, *_: object) -> bytes:
        raise RuntimeError


class TrickyError(Exception):
    def __str__(self) -> str:
        return TrickyText("tricky")


class Codeless(Permanent):
    def __init__(self) -> None:
        pass


class Numbered(Permanent):
    def __init__(self) -> None:
        self.code = 5  # type: ignore[assignment]  # as a service's class may


def chained(count: int) -> Exception:
    error = ValueError("first")
    for number in range(count):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


def nested(count: int) -> Exception:
    error: Exception = ValueError("inner")
    for _ in range(count):
        error = ExceptionGroup("group", [error])
    return error


ERRORS = [
    ValueError("b\udcff"),
    WordlessError(),
    ExitingError(),
    NoTextError(),
    TrickyError(),
    Codeless(),
    Numbered(),
    ValueError(),
    ValueError("x" * 9_000_000),
    SyntaxError("odd", ("file", "not a line", [], object(), None, 3)),  # type: ignore[arg-type]  # as a parser's may
    chained(5_000),
    nested(2_000),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_has_a_name_a_message_and_a_traceback_that_can_be_written(error):
    texts = {"type": error_type_of(error), "error": error_text(error), "traceback": traceback_text(error)}

    assert all(texts.values())
    assert json.loads(json.dumps(texts, ensure_ascii=False).encode()) == texts
    assert len(texts["error"]) < MAX_TEXT_LENGTH + 50
    assert len(texts["traceback"]) <= MAX_TRACEBACK_LENGTH + 1
    assert len(fingerprint(error)) == 12


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("b\udcff", "b\\udcff"),
        ("abcdef", "abc… (6 characters)"),
        (TrickyError(), "tri… (6 characters)"),
        (WordlessError(), "<the text of this WordlessError cannot be read: its __str__ raised ValueError>"),
    ],
)
def test_a_text_is_escaped_and_cut(value, text):
    assert safe_text(value, 3) == text


def test_an_error_without_a_message_is_told_by_its_name():
    assert error_text(ValueError()) == "ValueError"
