"""The base classes of all errors, and the severity of an error event."""

from __future__ import annotations

from enum import StrEnum

from petiole.events.texts import safe_text

_MAX_QUOTED_LENGTH = 300
_MAX_NAME_LENGTH = 200


class Severity(StrEnum):
    """Rank an error event: a warning is published only, an error ends the current work, critical stops the system."""

    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class PetioleError(Exception):
    """Base class of all errors that this package raises on purpose.

    `code` distinguishes errors that share a class, such as "unknown_tool". It is empty if the class is specific.
    """

    code: str = ""  # for subclasses of services whose `__init__` does not call this one

    def __init__(self, *facts: object, code: str = "") -> None:
        super().__init__(*facts)
        self.code = code


class UsageError(PetioleError, ValueError):
    """The same call fails again; the caller has to change it."""


class Permanent(PetioleError):
    """A retry cannot succeed."""


class Retryable(PetioleError):
    """A later retry may succeed."""


def error_type_of(error: BaseException) -> str:
    """Return an error's code, or its class name if it has none. Records and events name errors by it."""
    code = safe_text(error.code, _MAX_NAME_LENGTH) if isinstance(error, PetioleError) else ""
    return code or safe_text(type(error).__name__, _MAX_NAME_LENGTH)


def quote(name: str) -> str:
    """Quote a name for an error message, cut to 300 characters."""
    return repr(name) if len(name) <= _MAX_QUOTED_LENGTH else f"{name[:_MAX_QUOTED_LENGTH]!r}…"
