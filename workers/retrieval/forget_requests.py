"""Forget requests: recognize them in English messages, and select what they delete. Pure functions.

Forget my name.                     the fact, and the messages that state or repeat it
Forget that I like tea.
Forget what I said about the trip.  the messages that have all these words
Forget that. / Forget what I just said.   the last message
Forget everything.                  all facts and messages of the user
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.workers.retrieval.keyword import match_all_terms, search_terms
from petiole.workers.retrieval.search_text import split_terms
from petiole.workers.retrieval.statements import extract_statements

_MAX_TEXT_LENGTH = 2_000
_REQUEST: Final = re.compile(
    r"^\W*(?:(?:please|now|ok|okay|and|so|could you|can you|would you|will you|i want you to|you should)[, ]+)*"
    r"(?:forget|delete|erase)\b(?P<what>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_IDIOMS: Final = re.compile(r"^\s*(?:about )?it\b|^\s*to\b|^\s*$", re.IGNORECASE)
_EVERYTHING: Final = re.compile(
    r"^(?:about )?(?:everything|all|me|all of it|anything|all my (?:data|memories|facts))\b"
    r"(?: (?:that )?"
    r"(?:you (?:know|remember|have)|about me|i (?:have )?(?:said|told you)|of (?:it|this|that|me)|please))*$",
    re.IGNORECASE,
)
_LAST: Final = re.compile(
    r"^(?:about )?(?:that|this|what i (?:just )?(?:said|told you|wrote)|my last (?:message|sentence))$", re.IGNORECASE
)
_FILLERS: Final = re.compile(
    r"^(?:(?:about|that|what|everything|all|anything|i|we|you|have|know|remember|said|told|tell|wrote|me|"
    r"of|the fact|regarding)\s+)+",
    re.IGNORECASE,
)
_STATEMENT_OPENING: Final = re.compile(r"^(?:about |the fact )?(?:that )", re.IGNORECASE)
_ATTRIBUTE_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "home": frozenset({"live", "living", "address", "city"}),
    "employer": frozenset({"work", "company"}),
    "occupation": frozenset({"job", "profession"}),
    "age": frozenset({"old", "years"}),
}
# "delete" and "erase" are requests to the memory only together with one of these words.
_ABOUT_MEMORY: Final = re.compile(r"\b(?:my|me|i|memor\w+)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """What to forget: everything, the last message, or what `about` names."""

    about: str = ""
    is_everything: bool = False
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The facts, by key, and the messages, by event id, that a request deletes."""

    fact_keys: frozenset[str] = frozenset()
    memory_keys: frozenset[str] = frozenset()


def parse_forget_request(text: str) -> ForgetRequest | None:
    """Read a request to forget; None for other messages, also for "forget it" and "don't forget"."""
    match = _REQUEST.match(text[:_MAX_TEXT_LENGTH].replace("\u2019", "'"))
    if match is None or _IDIOMS.match(match["what"]):
        return None
    if not match[0].lower().lstrip(" .,").partition(" ")[0].startswith("forget") and not _ABOUT_MEMORY.search(
        match["what"]
    ):
        return None
    what = " ".join(match["what"].strip(" .!?,;:\"'").split())
    what = re.sub(r",? (?:please|now|thanks)$", "", what, flags=re.IGNORECASE)
    if _EVERYTHING.match(what):
        return ForgetRequest(is_everything=True)
    if _LAST.match(what):
        return ForgetRequest(is_last=True)
    return ForgetRequest(about=what)


def select_forgotten(request: ForgetRequest, facts: Sequence[Fact], memories: Mapping[str, MemoryItem]) -> Selection:
    """Select what a request deletes.

    Args:
        request: The request.
        facts: All facts of the user, also the values that no longer hold.
        memories: All messages by and for the user, by event id, oldest first.
    """
    if request.is_everything:
        return Selection(frozenset(fact.key for fact in facts), frozenset(memories))
    if request.is_last:
        last = next((memory.flow for memory in reversed(list(memories.values())) if memory.role == "user"), None)
        flow = frozenset(key for key, memory in memories.items() if memory.flow == last)
        return Selection(frozenset(fact.key for fact in facts if fact.source in flow), flow)
    chosen = frozenset(_named_facts(request.about, facts))
    values = [fact for fact in facts if fact.key in chosen]
    return Selection(chosen, frozenset(_matching_memories(request.about, values, memories)))


def _named_facts(about: str, facts: Sequence[Fact]) -> set[str]:
    stated = {statement.attribute for statement in extract_statements(_STATEMENT_OPENING.sub("", about))}
    terms = set(search_terms(_FILLERS.sub("", about)))
    return {
        fact.key
        for fact in facts
        if fact.attribute.casefold() in stated
        or (terms and terms <= {*split_terms(fact.attribute), *split_terms(fact.value), *split_terms(fact.text)})
        or _asks_for(fact, terms)
    }


def _asks_for(fact: Fact, terms: set[str]) -> bool:
    words = _ATTRIBUTE_WORDS.get(fact.attribute.casefold(), frozenset())
    return bool(terms) and terms <= words


def _matching_memories(about: str, facts: Sequence[Fact], memories: Mapping[str, MemoryItem]) -> set[str]:
    keys, items = list(memories), list(memories.values())
    found = {fact.source for fact in facts if fact.source in memories}
    values = [fact.value for fact in facts if fact.value not in {"yes", "no"}]
    for query in [_FILLERS.sub("", about), *values]:
        found |= {keys[place] for place in match_all_terms(query, items)}
    return found
