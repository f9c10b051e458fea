"""Redaction: replace secrets in texts before they are logged or kept.

PETIOLE_REDACT names a function `(text, name) -> str`: it gets each text with the name of the field that has it, and
returns what may be kept. `redact_secrets` is the default. It finds

    by field name      password, passphrase, secret, api_key, access_token, private_key, card_number, cvv and the like
    by what precedes   "my password is …", "DB_PASSWORD=…", "api key: …", "PIN is 1234", "Authorization: Bearer …"
    by form            keys of known services, JSON Web Tokens, private keys in PEM, passwords in URLs, card numbers

and nothing else: no secret in other words or in another language than English, no name, e-mail, address or telephone
number, no number in a numeric field, nothing in audio, images or encoded bytes, and nothing in a text of more than
MAX_SCANNED_LENGTH characters.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from pydantic import BaseModel

from petiole.events.errors import UsageError

RedactionHook: TypeAlias = Callable[[str, str], str]

DEFAULT_HOOK = "petiole.events.redaction:redact_secrets"
NO_HOOK = "none"

REDACTED = "[redacted]"
FAILED = "[removed: PETIOLE_REDACT failed]"
"""Stands for a text of which the hook did not return one."""

MAX_SCANNED_LENGTH = 100_000
"""A longer text is left as it is: most are encoded bytes, and a search takes as long as many deliveries."""

_MAX_NAME_LENGTH = 200
_SECRET_FIELD = re.compile(
    r"(?:.*[_-])?(?:passw(?:or)?d|passphrase|passcode|pwd|secret|secret_?key|client_?secret|api_?key|private_?key"
    r"|(?:(?:access|auth|bearer|refresh|session|id)_?)?token|authorization|credential|card_?number|cvv|cvc)",
    re.IGNORECASE,
)
_TOKEN_FIELD = re.compile(r"token", re.IGNORECASE)
_TOKEN = re.compile(r"\S{12,}")
"""A field `token` may have a word of a language model; a credential is longer and has no space."""

# Repeats are bounded where a search could begin at every character: a stranger's text must take no long time.
_QUOTED = r""""(?P<quoted>[^"]+)"|'(?P<single>[^'\n]{1,500})'|`(?P<ticked>[^`\n]{1,500})`"""
_VALUE = rf"""(?:{_QUOTED}|["'`]?(?P<value>[^\s"'`,;]+))"""
_KEY = "(?:secret|token|(?:api|access|secret|private)[ _-]?key)"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Names of variables come before: DB_PASSWORD, PGPASSWORD, clientSecret.
        rf"p(?:ass[ -]?(?:word|phrase|code)|asswd|wd)\b[\"']?\s*(?:is|was|:|=)+\s*{_VALUE}",
        rf"""{_KEY}\b["']?\s*[:=]+\s*["'`]?(?P<value>[^\s"'`,;]{{6,}})""",
        rf"""\b{_KEY}\s+is\s+["'`]?(?P<value>(?=[^\s"'`,;]*\d)[^\s"'`,;]{{8,}})""",
        r"\b(?:pin|cvv|cvc)(?:\s+(?:code|number))?\s*(?:is|:|=)\s*(?P<value>\d{3,8})\b",
        r"\b(?:bearer|basic)\s+(?P<value>[A-Za-z0-9._~+/=-]{16,})",
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,200}:(?P<value>[^\s/@]{1,500})@",
        r"(?P<value>-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z))",
    )
)
_FORMS = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|whsec_[A-Za-z0-9+/=]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{20,}"
    r"|eyJ[A-Za-z0-9_-]{8,300}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]*)"
)
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?\d){12,18}(?![\w-])")
_LONG_NUMBER = re.compile(r"[2-6](?:[ -]?\d){12}")

_HINTS = (
    *("pass", "pwd", "secret", "token", "key", "pin", "cvv", "cvc", "bearer", "basic ", "://", "card"),
    *("authorization", "credential", "sk-", "k_live_", "k_test_", "gh", "glpat-", "xox", "akia", "asia", "aiza"),
    *("whsec_", "hf_", "eyj"),
)
"""A text with none of these, in lower case, and without a long number, has nothing that the default finds."""


def redact_secrets(text: str, name: str = "") -> str:
    """Replace what looks like a secret by REDACTED. The module's docstring tells what is found, and what is not."""
    if text and is_secret_field(name) and (not _TOKEN_FIELD.fullmatch(name) or _TOKEN.fullmatch(text)):
        return REDACTED
    if not _may_have_secret(text):
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(_replace_value, text)
    return _CARD.sub(_replace_card, _FORMS.sub(REDACTED, text))


@lru_cache(10_000)
def is_secret_field(name: str) -> bool:
    """Return whether the default takes the text of a field of that name for a secret."""
    return len(name) <= _MAX_NAME_LENGTH and _SECRET_FIELD.fullmatch(name) is not None


def _may_have_secret(text: str) -> bool:
    """Return whether a text has a word or a number that the default looks at; most texts have none."""
    if len(text) > MAX_SCANNED_LENGTH:
        return False
    lowered = text.lower()
    for hint in _HINTS:  # a loop takes half of the time of any(): this runs for each text that is published
        if hint in lowered:
            return True
    return _LONG_NUMBER.search(text) is not None


def _may_change(value: object, name: str) -> bool:
    if isinstance(value, str):
        return is_secret_field(name) or _may_have_secret(value)
    if isinstance(value, BaseModel):
        return _may_change({**vars(value), **(value.model_extra or {})}, name)
    if isinstance(value, Mapping):
        return any(_may_change(each, str(key)) for key, each in value.items())
    return isinstance(value, list | tuple) and any(_may_change(each, name) for each in value)


def _replace_value(match: re.Match[str]) -> str:
    start, end = match.span(match.lastgroup or "value")
    whole, offset = match.group(), match.start()
    return f"{whole[: start - offset]}{REDACTED}{whole[end - offset :]}"


def _replace_card(match: re.Match[str]) -> str:
    digits = [int(character) for character in match.group() if character.isdigit()]
    return REDACTED if _has_check_digit(digits) else match.group()


def _has_check_digit(digits: Sequence[int]) -> bool:
    """Return whether the last digit is that of Luhn's formula (ISO/IEC 7812-1), which every card number ends in."""
    doubled = (digit * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0  # noqa: PLR2004 - two digits' sum


class Redactor:
    """Applies the hook of a setting to texts and to JSON values."""

    def __init__(self, setting: str) -> None:
        """Load the hook. Raises UsageError if there is none of that name."""
        self._hook = None if setting == NO_HOOK else _load_hook(setting)
        self._is_default = self._hook is redact_secrets

    def may_change(self, value: object) -> bool:
        """Return whether `value` may change a model or a JSON value. Most are answered without a search."""
        return _may_change(value, "") if self._is_default else self._hook is not None

    def text(self, text: str, name: str = "") -> str:
        """Redact a text. Raises nothing: a text of which the hook raises is removed."""
        if self._hook is None:
            return text
        try:
            redacted: object = self._hook(text, name)
        except Exception:  # noqa: BLE001 - the hook is a stranger's; a secret must not pass because it failed
            return FAILED
        return redacted if isinstance(redacted, str) else FAILED

    def value(self, value: object, name: str = "") -> object:
        """Redact the texts of a JSON value; those of a list have the list's name."""
        if isinstance(value, str):
            return self.text(value, name)
        if isinstance(value, Mapping):
            return {key: self.value(each, str(key)) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each, name) for each in value]
        return value


def _load_hook(setting: str) -> RedactionHook:
    module_name, _, name = setting.partition(":")
    try:
        hook: RedactionHook = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(_remedy(setting, str(error))) from error
    if not callable(hook):
        raise UsageError(_remedy(setting, f"it is a {type(hook).__name__}"))
    return hook


def _remedy(setting: str, reason: str) -> str:
    return (
        f"PETIOLE_REDACT={setting!r} names no function ({reason}); give 'package.module:function', "
        f"'{NO_HOOK}' to keep everything as it is, or unset it"
    )
