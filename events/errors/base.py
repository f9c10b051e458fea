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
    """The root: `except PetioleError` catches what this package raises on purpose."""


class Misuse(PetioleError, ValueError):  # noqa: N818 - the three branches say what to do, not what went wrong
    """The call has to be changed."""


class Permanent(PetioleError):  # noqa: N818 - as above
    """Trying again cannot help."""


class Retryable(PetioleError):  # noqa: N818 - as above
    """Trying again later may help."""


def shown(name: str) -> str:
    """Quote a name in an error, shortened where somebody sent a page for one."""
    return repr(name) if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]!r}…"
