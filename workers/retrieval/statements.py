"""Statements: extract what users state about themselves from English messages, by pattern matching.

    My name is Ada.                  user, name, Ada              also: call me, I am called
    I live in Paris and work at ESA  user, home, Paris; user, employer, ESA
    I like tea but I hate coffee.    user, likes tea, yes; user, likes coffee, no
    No, that's wrong, my name is Eve a correction: user, name, Eve
    My dog's name is Rex.            user, dog's name, Rex        also: my dog is called, my dog is named
    My name isn't Ada, it's Eve.     a correction: user, name, Eve
    My favourite colour is blue.     user, favourite colour, blue

Questions, conditions and sentences about other people are not statements. Any other "My … is …" is extracted too, but
as a temporary state ("my car is broken"); only a lasting attribute is a claim that another value contradicts.
Attributes that name secrets are not extracted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from petiole.workers.retrieval.questions import normalize_question

_MAX_TEXT_LENGTH = 2_000
_MAX_VALUE_LENGTH = 80
_MAX_STATEMENTS = 8

_SENTENCES = re.compile(r"[^.!?;\n]*(?:\.(?=\S)[^.!?;\n]*)*[.!?;\n]?")
_CLAUSES = re.compile(r",?\s+(?:and|but)\s+(?=(?:i|my|call me|work|live)\b)|,\s+(?=(?:i|my)\b)", re.IGNORECASE)
_CONDITIONS = re.compile(r"^(?:if|when|suppose|imagine|maybe|perhaps|unless)\b", re.IGNORECASE)
_CORRECTION_WORDS = (
    r"no|nope|actually|sorry|correction|wrong|that(?:'s| is| was) (?:wrong|not (?:right|true|correct))"
    r"|you(?:'re| are) wrong|i (?:meant|mean)(?: that)?|i was wrong"
)
_OPENING = (
    r"^(?:(?:hi|hello|hey|well|so|yes|please|by the way|oh|(?:please )?remember(?: that)?|note that|now"
    rf"|{_CORRECTION_WORDS})[,:;.!]?\s+)*"
)
_CORRECTIONS = re.compile(rf"^(?:(?:oh|well|hi|hey),?\s+)*(?:{_CORRECTION_WORDS})\b", re.IGNORECASE)
_MOVES = re.compile(r"\b(?:now|currently|moved to|no longer|any ?more|changed)\b", re.IGNORECASE)
_REPLACEMENTS: Final = tuple(
    re.compile(_OPENING + pattern + r"[.! ]*$", re.IGNORECASE)
    for pattern in (
        r"(?:it(?:'s| is)|i meant|i said)? ?(?P<new>[^,.;!?]{1,80}?),? (?:and )?not (?P<old>[^,.;!?]{1,80})",
        r"(?:it(?:'s| is) )?not (?P<old>[^,.;!?]{1,80}?),? (?:but|it(?:'s| is)|i meant)? ?(?P<new>[^,.;!?]{1,80})",
    )
)

# Frequent in "my … is …", without a lasting value.
_TEMPORARY_ATTRIBUTES: Final = frozenset(
    """
    answer bad concern fault goal guess hope idea intention issue mistake opinion plan point problem question request
    suggestion thought turn understanding wish worry
    """.split()  # noqa: SIM905 - a list of words reads best as words
)
# First words of a clause that is not a value.
_PHRASES: Final = frozenset({"not", "that", "to", "what", "whether", "why", "how"})
_LASTING_ATTRIBUTES: Final = frozenset(
    """
    age birthday birthplace boss brother colour color company daughter employer father gender height hometown husband
    job language mother name nationality occupation partner profession school sister son surname university wife
    """.split()  # noqa: SIM905 - as above
)
_SECRET_ATTRIBUTES: Final = frozenset(
    {"card", "code", "cvv", "key", "passphrase", "password", "pin", "secret", "ssn", "token"}
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement about a subject. `text` is its sentence; a different value contradicts a claim.

    A correction replaces an earlier value without a contradiction.
    """

    subject: str
    attribute: str
    value: str
    text: str
    is_claim: bool = True
    is_correction: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    attribute: str
    value: str


def _rule(pattern: str, attribute: str, value: str = r"\g<value>") -> _Rule:
    return _Rule(re.compile(_OPENING + pattern + r"$", re.IGNORECASE), attribute, value)


_A_VALUE = r"(?P<value>\S.*)"
_ANYTHING: Final = _rule(rf"my (?P<attribute>[^\W\d_][\w' -]{{0,40}}?) is {_A_VALUE}", r"\g<attribute>")
_REPLACED: Final = _rule(
    rf"my (?P<attribute>[^\W\d_][\w' -]{{0,40}}?) (?:isn't|is not) [^,;]{{1,80}}?,? (?:but|it(?:'s| is)) {_A_VALUE}",
    r"\g<attribute>",
)
_RULES: Final = (
    _REPLACED,
    _rule(rf"(?:my (?:full )?name is|my name's|(?:please )?call me|i(?:'m| am) called) {_A_VALUE}", "name"),
    _rule(rf"(?:i|we)?\s*(?:now |currently )?live (?:now )?(?:in|at) {_A_VALUE}", "home"),
    _rule(rf"i(?:'ve| have)? (?:just )?moved to {_A_VALUE}", "home"),
    _rule(rf"(?:i)?\s*(?:now |currently )?work (?:at|for) {_A_VALUE}", "employer"),
    _rule(rf"i(?: now| currently)? work as (?:an? |the )?{_A_VALUE}", "occupation"),
    _rule(r"i(?:'m| am) (?P<value>\d{1,3})(?: years old)?", "age"),
    _rule(rf"i (?:really |also |do )*(?:like|love|enjoy) {_A_VALUE}", r"likes \g<value>", "yes"),
    _rule(rf"i (?:really )?(?:hate|dislike|(?:don't|do not) (?:like|enjoy)) {_A_VALUE}", r"likes \g<value>", "no"),
    _rule(rf"my (?P<thing>[^\W\d_][\w' -]{{0,40}}?)'s name is {_A_VALUE}", r"\g<thing>'s name"),
    _rule(rf"my (?P<thing>[^\W\d_][\w' -]{{0,40}}?) is (?:called|named) {_A_VALUE}", r"\g<thing>'s name"),
    _ANYTHING,
)


def extract_statements(text: str) -> tuple[Statement, ...]:
    """Extract the statements of a message in their order; at most eight."""
    return tuple(_statements(text[:_MAX_TEXT_LENGTH].replace("\u2019", "'")))[:_MAX_STATEMENTS]


def extract_replacement(text: str) -> tuple[str, str] | None:
    """Extract the new and the old value of a correction that names no attribute: "it's Eve, not Ada"."""
    plain = text[:_MAX_TEXT_LENGTH].replace("\u2019", "'").strip()
    for pattern in _REPLACEMENTS:
        if match := pattern.match(plain):
            return match["new"].strip(" \"'"), match["old"].strip(" \"'")
    return None


def is_correction(text: str) -> bool:
    """Return whether a message corrects something: "no, …", "that's wrong", "I meant …", "I now live in …"."""
    plain = text[:_MAX_TEXT_LENGTH].replace("\u2019", "'").strip()
    return bool(_CORRECTIONS.match(plain) or _MOVES.search(plain))


def _statements(text: str) -> Iterator[Statement]:
    corrects = is_correction(text)
    for sentence in _SENTENCES.findall(text):
        stripped = sentence.strip()
        if not stripped or normalize_question(stripped) or _CONDITIONS.match(stripped):
            continue
        for clause in _CLAUSES.split(stripped):
            if statement := _match_rules(clause.strip(" ,"), stripped):
                yield replace(statement, is_correction=corrects or statement.is_correction)


def _match_rules(clause: str, sentence: str) -> Statement | None:
    plain = clause.rstrip(".!;: ")
    for rule in _RULES:
        if match := rule.pattern.match(plain):
            attribute, value = match.expand(rule.attribute).casefold(), match.expand(rule.value).strip(" \"'")
            if not _is_worth_noting(attribute, value):
                return None
            is_claim = rule not in (_ANYTHING, _REPLACED) or _is_lasting(attribute)
            is_replaced = rule is _REPLACED
            return Statement("user", attribute, value, sentence, is_claim=is_claim, is_correction=is_replaced)
    return None


def _is_worth_noting(attribute: str, value: str) -> bool:
    words, first = attribute.split(), value.casefold().partition(" ")[0]
    is_secret = not _SECRET_ATTRIBUTES.isdisjoint(words)
    return (
        0 < len(value) <= _MAX_VALUE_LENGTH
        and not is_secret
        and words[-1] not in _TEMPORARY_ATTRIBUTES
        and first not in _PHRASES
    )


def _is_lasting(attribute: str) -> bool:
    return attribute.startswith(("favourite ", "favorite ")) or attribute.rsplit(maxsplit=1)[-1] in _LASTING_ATTRIBUTES
