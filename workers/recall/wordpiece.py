"""WordPiece: cut a text into the pieces that BERT's vocabulary knows, and number them.

Source: Devlin et al., BERT (2018), its uncased vocabulary; the cutting is Wu et al. (2016), the longest piece first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

MOST_PIECES = 256
_LONGEST_WORD = 100
_IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


class WordPiece:
    """A vocabulary: the place of a piece is its number; `##` begins those that stand inside a word."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        self._begin, self._end, self._unknown = (self._ids[mark] for mark in ("[CLS]", "[SEP]", "[UNK]"))

    def ids(self, text: str) -> list[int]:
        """Number the pieces of a text, between a mark for the beginning and one for the end; 256 at most."""
        inside: list[int] = []
        for word in words(text):
            inside += self._cut(word)
            if len(inside) >= MOST_PIECES - 2:
                break
        return [self._begin, *inside[: MOST_PIECES - 2], self._end]

    def _cut(self, word: str) -> list[int]:
        if len(word) > _LONGEST_WORD:
            return [self._unknown]
        cut, begin = [], 0
        while begin < len(word):
            prefix = "##" if begin else ""
            ends = range(len(word), begin, -1)
            end = next((end for end in ends if prefix + word[begin:end] in self._ids), None)
            if end is None:
                return [self._unknown]
            cut.append(self._ids[prefix + word[begin:end]])
            begin = end
        return cut


def words(text: str) -> Iterator[str]:
    """Cut a text into words in small letters without accents; signs and ideographs are words of their own."""
    word = ""
    for sign in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(sign)
        if category == "Mn" or (category[0] == "C" and sign not in "\t\n\r") or sign == "\ufffd":
            continue
        if not (sign.isspace() or _stands_alone(sign, category)):
            word += sign
            continue
        if word:
            yield word
        word = ""
        if not sign.isspace():
            yield sign
    if word:
        yield word


def _stands_alone(sign: str, category: str) -> bool:
    # All signs of ASCII that are no letters or digits count as punctuation, such as $ and ^, whatever Unicode says.
    is_sign = category[0] == "P" or (sign.isascii() and not sign.isalnum())
    return is_sign or any(first <= ord(sign) <= last for first, last in _IDEOGRAPHS)
