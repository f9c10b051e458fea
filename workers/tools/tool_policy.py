"""Tool policy: the options of a tool's calls, for functions and for tools of MCP servers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias, TypedDict

from petiole.events.arguments import check_argument
from petiole.events.content import Text
from petiole.events.errors import invalid_option
from petiole.events.topics import check_topic

OnUnfinishedCall: TypeAlias = Literal["repeat", "raise"]

DEFAULT_TOOL_TIMEOUT_S = 30.0
"""Time limit of a tool that sets none."""

MAX_TOOL_TIMEOUT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """The options of a tool's calls.

    Attributes:
        timeout_s: How long a call may run.
        needs_approval: Whether a person must approve each call before it runs.
        is_repeatable: Whether the same call may act more than once in a flow. If not, a call with the same arguments
            gets the result of the first, whatever its call id; after a failure it runs again.
        on_unfinished: What happens to a call whose process crashed: "repeat" runs it again, "raise" fails it.
        breaker: The name of the circuit breaker of the calls; None for none.
    """

    timeout_s: float = DEFAULT_TOOL_TIMEOUT_S
    needs_approval: bool = False
    is_repeatable: bool = False
    on_unfinished: OnUnfinishedCall = "repeat"
    breaker: str | None = None


class ToolOptions(TypedDict, total=False):
    """The options of `@tool`: see `ToolRegistry.add`."""

    timeout: float | timedelta
    needs_approval: bool
    repeatable: bool
    on_unfinished: OnUnfinishedCall
    guarded: bool | str


def build_tool_policy(tool: str, options: ToolOptions) -> ToolPolicy:
    """Validate the options of `@tool`. Raises UsageError (invalid_option, invalid_topic)."""
    guarded = options.get("guarded", False)
    on_unfinished: OnUnfinishedCall = options.get("on_unfinished", "repeat")
    check_argument("on_unfinished", on_unfinished, OnUnfinishedCall)
    check_argument("needs_approval", options.get("needs_approval", False), bool)
    check_argument("repeatable", options.get("repeatable", False), bool)
    check_argument("guarded", guarded, bool | Text)
    return ToolPolicy(
        timeout_s=parse_timeout(options.get("timeout", DEFAULT_TOOL_TIMEOUT_S)),
        needs_approval=options.get("needs_approval", False),
        is_repeatable=options.get("repeatable", False),
        on_unfinished=on_unfinished,
        breaker=check_topic(guarded if isinstance(guarded, str) else f"tool.{tool.lower()}") if guarded else None,
    )


def parse_timeout(timeout: object) -> float:
    """Convert a time limit to seconds. Raises UsageError (invalid_option)."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= MAX_TOOL_TIMEOUT_S:
        return float(seconds)
    raise invalid_option("timeout", timeout, "give seconds above 0 and up to one day, or a timedelta")
