"""Number words: write English number words as digits, so that "twelve plus thirty-five" can be computed. Pure."""

from __future__ import annotations

import re
from typing import Final

_BELOW_TWENTY: Final = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
""".split()  # noqa: SIM905 - a list of words reads best as words
_UNITS: Final = {word: number for number, word in enumerate(_BELOW_TWENTY)}
_TENS: Final = {
    word: 10 * number
    for number, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}
_SCALES: Final = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_WORD: Final = rf"(?:{'|'.join([*_UNITS, *_TENS, 'hundred', *_SCALES])}|dozen)"
_NUMBER: Final = re.compile(
    rf"\b(?:(?:a|\d+(?:\.\d+)?) (?=hundred|thousand|million|billion|dozen))?"
    rf"{_WORD}(?:(?:[ -]| and (?={_WORD})){_WORD})*\b",
    re.IGNORECASE,
)


def replace_number_words(text: str) -> str:
    """Replace the number words of a text by digits: "two hundred and five" by "205"."""
    return _NUMBER.sub(lambda match: _read_number(match[0].lower()) or _replace_single_words(match[0]), text)


def _replace_single_words(words: str) -> str:
    """Replace each word by itself: "two and three" are two numbers."""
    return re.sub(_WORD, lambda match: _read_number(match[0].lower()) or match[0], words, flags=re.IGNORECASE)


def _read_number(words: str) -> str | None:
    """Read a number; None if the words are several numbers, such as "one two three"."""
    total, part, last = 0.0, 0.0, float("inf")
    for word in re.split(r"[ -]+", words.replace(" and ", " ")):
        if word in _SCALES:
            total, part, last = total + (part or 1) * _SCALES[word], 0.0, float("inf")
        elif word in {"hundred", "dozen"}:
            part, last = (part or 1) * (100 if word == "hundred" else 12), 100.0
        elif word == "a":
            part = 1.0
        else:
            value = float(_UNITS.get(word, _TENS.get(word, -1)) if word.isalpha() else word)
            if last <= max(value, 9):  # "twenty twenty", "one two"
                return None
            part, last = part + value, value if word in _TENS else 0.0
    return f"{total + part:.15g}"
