"""Keyword retrieval: rank memories by the words they share with a query, with SQLite's full-text search.

Words are reduced to English stems. Synonyms do not match: "car" does not find "vehicle". Scripts without spaces match
by pairs of signs: search_text.py.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing

from petiole.events.catalog.memory import MemoryItem
from petiole.workers.retrieval.search_text import split_terms

# Frequent words, and the parts of contractions ("what's", "don't").
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

MAX_SEARCH_TERMS = 32
"""Most terms of a query that are searched for; later ones are ignored."""

_MAX_TEXT_LENGTH = 20_000


def search_terms(query: str) -> list[str]:
    """List the words, pairs of signs and emoji of a query without stop words and duplicates."""
    words = dict.fromkeys(split_terms(query[:_MAX_TEXT_LENGTH], is_query=True))
    return [word for word in words if word not in _STOP_WORDS][:MAX_SEARCH_TERMS]


class KeywordRetriever:
    """Finds memories that share words with the query."""

    name = "keyword"

    def rank(self, query: str, memories: Sequence[MemoryItem], limit: int) -> list[MemoryItem]:
        """Rank the memories that share words with the query."""
        return rank_by_keywords(query, memories, limit)


def rank_by_keywords(query: str, memories: Sequence[MemoryItem], limit: int) -> list[MemoryItem]:
    """Find at most `limit` memories that share words with a query, best first, the later of equals first.

    The score is the weighted fraction of the query's words that occur, from 0 (none, left out) to 1 (all). The weight
    of a word that occurs in n of N texts is log(1 + (N - n + 0.5) / (n + 0.5)).
    Source: the idf of BM25 in Lucene's form, which unlike SQLite's is above 0 in small collections.
    """
    matches = _find_terms(search_terms(query), memories)
    weights = {word: _inverse_document_frequency(len(rows), len(memories)) for word, rows in matches.items()}
    total = sum(weights.values())
    scores = {
        row: sum(weights[word] for word, rows in matches.items() if row in rows) / total
        for row in set().union(*matches.values())
    }
    best = sorted(scores, key=lambda row: (scores[row], row), reverse=True)[: max(limit, 0)]
    return [memories[row].model_copy(update={"score": scores[row]}) for row in best]


def match_all_terms(query: str, memories: Sequence[MemoryItem]) -> set[int]:
    """Find the positions of the memories that have every search term of a query; none if it has no terms."""
    matches = _find_terms(search_terms(query), memories).values()
    return set.intersection(*matches) if matches else set()


def _inverse_document_frequency(matches: int, total: int) -> float:
    return math.log(1 + (total - matches + 0.5) / (matches + 0.5))


def _find_terms(words: Sequence[str], memories: Sequence[MemoryItem]) -> dict[str, set[int]]:
    """Find the positions of the memories that contain each word."""
    texts = (" ".join(map(_indexed, split_terms(memory.text[:_MAX_TEXT_LENGTH]))) for memory in memories)
    with closing(sqlite3.connect(":memory:")) as index:
        index.execute("CREATE VIRTUAL TABLE memories USING fts5(text, tokenize='porter unicode61')")
        index.executemany("INSERT INTO memories(rowid, text) VALUES (?, ?)", enumerate(texts))
        return {word: _matching_rows(index, word) for word in words}


def _matching_rows(index: sqlite3.Connection, word: str) -> set[int]:
    # Quoted, because a word may read like an operator (AND, NEAR). A word contains no quotes.
    rows = index.execute("SELECT rowid FROM memories WHERE memories MATCH ?", (f'"{_indexed(word)}"',))
    return {row for (row,) in rows}


def _indexed(term: str) -> str:
    # SQLite's tokenizer splits at marks and drops emoji, so terms beyond ASCII are written in hexadecimal,
    # with a last letter that no English ending has, or the stemmer would cut them.
    return term if term.isascii() else f"u{term.encode('utf-8', 'surrogatepass').hex()}x"
