"""Questions: recognize and normalize English questions, by pattern matching."""

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
    """Return a question without case, punctuation and extra spaces; None if the text is not a question.

    Only the first 500 characters count. Questions with different words are different questions.
    """
    beginning = text[:_MAX_TEXT_LENGTH].replace("\u2019", "'").strip()
    words = _WORD.findall(beginning.casefold())
    return " ".join(words) if words and _QUESTION_PATTERN.search(beginning) else None
