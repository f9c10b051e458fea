"""Search text: fold texts and queries alike, and split them into search terms, in any script.

    "Straße", "STRASSE"       strasse
    full width and half width  the same letters
    "café", "cafe"            cafe
    "私の名前"                 私の, の名, 名前: pairs of signs, because the words of these scripts have no spaces
    "🍕🍕"                    🍕

Source: Unicode Standard Annex 15 (NFKD, NFC) and its case folding; pairs of signs as Lucene's CJKBigramFilter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

# Thai, Lao, Myanmar, Khmer, Japanese, Chinese, and Korean, whose words have particles attached.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_RUN: Final = re.compile(f"[{_UNSPACED}]+")
_HIRAGANA: Final = re.compile("[\u3040-\u309f]+")
_LATIN_MARKS: Final = re.compile("[\u0300-\u036f]")
_SKIN_TONES: Final = frozenset(map(chr, range(0x1F3FB, 0x1F400)))


def fold_text(text: str) -> str:
    """Remove the differences of case, width and diacritics. Marks that are part of a letter, as in が, stay."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFC", _LATIN_MARKS.sub("", decomposed))


def split_terms(text: str, *, is_query: bool = False) -> Iterator[str]:
    """Split a text into words, pairs of signs, and emoji, in their order.

    A text also has each sign of an unspaced script as a term, so that a query of one sign finds it.
    """
    for word in _words(fold_text(text)):
        place = 0
        for run in _UNSPACED_RUN.finditer(word):
            if run.start() > place:
                yield word[place : run.start()]
            yield from _pairs(run[0], is_query=is_query)
            place = run.end()
        if place < len(word):
            yield word[place:]


def is_unspaced(text: str) -> bool:
    """Return whether a text has words of a script without spaces."""
    return _UNSPACED_RUN.search(fold_text(text)) is not None


def _pairs(run: str, *, is_query: bool) -> Iterator[str]:
    pairs = [first + second for first, second in pairwise(run)]
    if not is_query:
        yield from run
        yield from pairs
    elif len(run) == 1:
        yield run
    else:
        # Hiragana alone are mostly particles and endings, which stand in every sentence.
        yield from [pair for pair in pairs if not _HIRAGANA.fullmatch(pair)] or pairs


def _words(text: str) -> Iterator[str]:
    word = ""
    for sign in text:
        category = unicodedata.category(sign)
        if category[0] in "LN" or (category[0] == "M" and word):
            word += sign
            continue
        if word:
            yield word
        word = ""
        if category == "So" and sign not in _SKIN_TONES:
            yield sign
    if word:
        yield word
