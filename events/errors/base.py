"""The root of all errors, its three branches, and how bad an error event is."""

from __future__ import annotations

from enum import StrEnum

_SHOWN_LENGTH = 300


class Severity(StrEnum):
    """How bad an error event is: warning is told, error ends the work at hand, critical stops the system."""

    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class PetioleError(Exception):
    """The root: `except PetioleError` catches what this package raises on purpose.

    `code` tells apart errors that share a class, such as "unknown_tool"; it is empty where the class says it all.
    """

    def __init__(self, *facts: object, code: str = "") -> None:
        super().__init__(*facts)
        self.code = code


class UsageError(PetioleError, ValueError):
    """The call has to be changed."""


class Permanent(PetioleError):
    """Trying again cannot help."""


class Retryable(PetioleError):
    """Trying again later may help."""


def error_type_of(error: BaseException) -> str:
    """Name the kind of an error for records and events: its code, or the name of its class where it has none."""
    return (error.code if isinstance(error, PetioleError) else "") or type(error).__name__


def shown(name: str) -> str:
    """Quote a name in an error, shortened where somebody sent a page for one."""
    return repr(name) if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]!r}…"
