"""Terms: on what terms a tool is run; the same for functions and for tools of MCP servers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

from petiole.events.errors import invalid_option
from petiole.events.topics import check_topic

OnUnfinished: TypeAlias = Literal["repeat", "raise"]

TIMEOUT_S = 30.0
"""How long a tool may run that does not say."""

MAX_TIMEOUT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a tool may run (s), and what has to be seen to before and after.

    needs_approval: somebody has to grant each call before it runs.
    on_unfinished: what becomes of a call whose process died in the middle: run again, or told as failed.
    guard: the name of the circuit breaker that its calls go through; None for none.
    """

    timeout_s: float = TIMEOUT_S
    needs_approval: bool = False
    on_unfinished: OnUnfinished = "repeat"
    guard: str | None = None


def terms(
    tool: str, *, timeout: float | timedelta, needs_approval: bool, on_unfinished: OnUnfinished, guarded: bool | str
) -> Terms:
    """Check what a tool says of itself. Raises: UsageError (invalid_option, invalid_topic)."""
    if on_unfinished not in ("repeat", "raise"):
        raise invalid_option("on_unfinished", repr(on_unfinished), "write 'repeat' or 'raise'")
    return Terms(
        timeout_s=checked_timeout(timeout),
        needs_approval=needs_approval,
        on_unfinished=on_unfinished,
        guard=check_topic(guarded if isinstance(guarded, str) else f"tool.{tool.lower()}") if guarded else None,
    )


def checked_timeout(timeout: object) -> float:
    """Read a time limit as seconds. Raises UsageError (invalid_option)."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= MAX_TIMEOUT_S:
        return float(seconds)
    raise invalid_option("timeout", repr(timeout), "give seconds above 0, at most a day's, or a timedelta")
