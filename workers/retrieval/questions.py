"""Questions: whether a text asks something, and what two that ask the same have in common. English, by rule."""

from __future__ import annotations

import re

_QUESTION_PATTERN = re.compile(
    r"\?\s*$|^(?:what|who|whom|whose|where|when|which|why|how|is|are|was|were|am|do|does|did|can|could|will|would|shall"
    r"|should|may|have|has)(?:'s|'re|'d)?\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_MAX_TEXT_LENGTH = 500


def normalize_question(text: str) -> str | None:
    """Return a question's words, the same for questions that differ in case, spaces and punctuation; or None.

    Only the beginning of a longer text is compared. Other words for the same thing make another question.
    """
    said = text[:_MAX_TEXT_LENGTH].replace("\u2019", "'").strip()
    words = _WORD.findall(said.casefold())
    return " ".join(words) if words and _QUESTION_PATTERN.search(said) else None
