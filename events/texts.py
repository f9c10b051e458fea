"""Texts of strangers: make the words of errors, tools and providers safe to store and to send.

Any exception may come from a handler: its `__str__` may raise, its message may have megabytes or hold a lone surrogate,
which UTF-8 cannot encode (`os.listdir` returns such names). The functions here raise nothing, so that recording a
failure cannot fail for its words; but `parse_json` and `check_json_values`, which refuse a text.
"""

from __future__ import annotations

import json
import re
import traceback
import unicodedata
from itertools import islice
from typing import Any

MAX_TEXT_LENGTH = 4_000
"""The most characters of an error's message in events, dead letters and logs."""

MAX_TRACEBACK_LENGTH = 20_000
"""The most characters of a traceback; its end is kept, which names the error."""

MAX_EVENT_VALUES = 500_000
"""The most JSON values of an event."""

MAX_JSON_VALUES = MAX_EVENT_VALUES + 10_000
"""The most values of a JSON text: of an event, with its message or its dead letter around it.

Parsed, `[],` takes up to 25 times its bytes, so a limit of bytes does not bound the memory.
"""

# The next sign before a value. It always matches, so that no text is read twice.
_JSON_SIGN = re.compile(r'(?:[^"\[{,]++|"(?:[^"\\]++|\\.)*+"?)*+(?:[\[{,]|\Z)', re.DOTALL)


def check_json_values(text: str | bytes, limit: int = MAX_JSON_VALUES) -> None:
    """Raise ValueError if a JSON text has more values than the limit. Costs nothing for shorter texts."""
    if len(text) <= limit:
        return
    signs = text if isinstance(text, str) else str(text, "latin-1")
    if sum(map(signs.count, "[{,")) > limit and sum(1 for _ in islice(_JSON_SIGN.finditer(signs), limit + 1)) > limit:
        raise ValueError(f"it has more than {limit:,} values; send a reference to the large part")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from outside. Raises ValueError, or RecursionError if it is nested too deep."""
    check_json_values(text)
    return json.loads(text)


def safe_text(value: object, limit: int = MAX_TEXT_LENGTH) -> str:
    """Convert any value to text that UTF-8 can encode. A text above `limit` characters is cut, and its length added.

    Lone surrogates become escapes. Raises nothing: a value whose `__str__` raises is described instead.
    """
    try:
        text = str.__str__(str(value))  # a subclass of str may override what is called on it
        if len(text) > limit:
            text = f"{text[:limit]}… ({len(text)} characters)"
        return text.encode("utf-8", "backslashreplace").decode()
    except BaseException as failure:  # noqa: BLE001 - `__str__` is a stranger's, and may even exit
        return f"<the text of this {type(value).__name__} cannot be read: its __str__ raised {type(failure).__name__}>"


def join_surrogates(text: str) -> str:
    """Join the two surrogates of each character that was split between them; a lone one becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def error_text(error: BaseException) -> str:
    """Return an error's message as `safe_text`; the name of its class if it has none."""
    return safe_text(error) or safe_text(type(error).__name__)


def traceback_text(error: BaseException) -> str:
    """Return an error's traceback with its causes, cut to the last MAX_TRACEBACK_LENGTH characters. Raises nothing."""
    try:
        text = "".join(safe_text(line) for line in traceback.format_exception(error))
    except BaseException as failure:  # noqa: BLE001 - an error's attributes are a stranger's
        text = f"{type(error).__name__}: its traceback cannot be read ({type(failure).__name__})\n"
    return text if len(text) <= MAX_TRACEBACK_LENGTH else f"…{text[-MAX_TRACEBACK_LENGTH:]}"


_BLANK_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
# Letters, symbols and marks that show nothing: Hangul fillers, the blank Braille pattern, joiners, variation selectors.
_BLANK_SIGNS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(0xFE00 + n) for n in range(16)}


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: only spaces, separators, controls and invisible characters."""
    return all(unicodedata.category(sign) in _BLANK_CATEGORIES or sign in _BLANK_SIGNS for sign in text)
