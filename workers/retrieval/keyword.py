"""Rank recollections by the words they share with a query: SQLite's full-text search, with English stems.

It finds words, not meaning: "car" does not find "vehicle". Writing without spaces counts as one word.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing

from petiole.events.catalog.memory import Recollection

# Words that stand in any sentence, and what apostrophes leave of the short forms ("what's", "don't").
_STOP_WORDS = frozenset(
    """
    a about above after again all am an and any are as at be because been before being below between both but
    by can could d did do does doing don down during each few for from further had has have having he her here
    hers him his how i if in into is isn it its just ll m me more most my no nor not now of off on once only
    or other our ours out over own please re s same she should so some such t than that the their them then
    there these they this those through to too under until up ve very was wasn we were what when where which
    while who whom why will with won would you your yours
    """.split()  # noqa: SIM905 - a list of words reads best as words
)

_WORD = re.compile(r"[^\W_]+")

MAX_WORDS = 32
"""Words of a query that are looked for; a longer text is known well enough by its first ones."""


def words_of(query: str) -> list[str]:
    """List the words of a query that tell something, each once."""
    words = dict.fromkeys(_WORD.findall(query.casefold()))
    return [word for word in words if word not in _STOP_WORDS][:MAX_WORDS]


class Words:
    """Finds what shares words with the query."""

    name = "keyword"

    def rank(self, query: str, memories: Sequence[Recollection], limit: int) -> list[Recollection]:
        """Choose the memories that share words with the query."""
        return rank(query, memories, limit)


def rank(query: str, memories: Sequence[Recollection], limit: int) -> list[Recollection]:
    """Find the recollections that share words with a query: best first, of equals the later, at most `limit`.

    The score is the share of the query that was found, from 0 (nothing, and left out) to 1 (every word). Rare
    words weigh more: log(1 + (N - n + 0.5) / (n + 0.5)) for a word in n of N texts.
    Source: the idf of BM25 as Lucene writes it, which unlike SQLite's own stays above 0 in small collections.
    """
    places = _find(words_of(query), memories)
    weights = {word: _weight(len(found), len(memories)) for word, found in places.items()}
    total = sum(weights.values())
    scores = {
        place: sum(weights[word] for word, found in places.items() if place in found) / total
        for place in set().union(*places.values())
    }
    best = sorted(scores, key=lambda place: (scores[place], place), reverse=True)[: max(limit, 0)]
    return [memories[place].model_copy(update={"score": scores[place]}) for place in best]


def _weight(found: int, of: int) -> float:
    return math.log(1 + (of - found + 0.5) / (found + 0.5))


def _find(words: Sequence[str], memories: Sequence[Recollection]) -> dict[str, set[int]]:
    """Tell for each word in which memories it stands, by their places."""
    with closing(sqlite3.connect(":memory:")) as index:
        index.execute("CREATE VIRTUAL TABLE said USING fts5(text, tokenize='porter unicode61')")
        index.executemany("INSERT INTO said(rowid, text) VALUES (?, ?)", enumerate(each.text for each in memories))
        return {word: _places(index, word) for word in words}


def _places(index: sqlite3.Connection, word: str) -> set[int]:
    # In quotes it is a word even where it reads like an operator (AND, NEAR); it has no quotes in it itself.
    found = index.execute("SELECT rowid FROM said WHERE said MATCH ?", (f'"{word}"',))
    return {place for (place,) in found}
