"""Formats: how pages write numbers, times, JSON and curves, and read JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from petiole.events.errors import UsageError
from petiole.tasks.stores.rate_limits import AccountUsage
from petiole.workers.observability.flow_tree import shorten
from petiole.workers.observability.printable import printable_lines, replace_unprintable

CURVE_WIDTH: Final = 120
CURVE_HEIGHT: Final = 24


def format_age(moment: datetime) -> str:
    """Write how long ago a time was: `12 s`, `3 min`, `5 h`, `2 d`."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def format_moment(moment: datetime | int) -> str:
    """Write a time, or ms since 1970, in UTC."""
    at = datetime.fromtimestamp(moment / 1_000, UTC) if isinstance(moment, int) else moment.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1_000:03}"


def format_clock(moment: datetime | int) -> str:
    """Write the time of day in UTC; pages that show many times say the day once."""
    return format_moment(moment)[11:]


def format_json(value: object) -> str:
    """Write a JSON value with indents; unprintable characters, which may reverse text, as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object of a form. Raises UsageError, which calls the text by its name."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not valid JSON: {error}; correct it") from error
    if not isinstance(parsed, dict):
        raise UsageError(f"{name} is not a JSON object; write one")
    return parsed


def draw_curve(values: Sequence[float]) -> str:
    """Return the points of an SVG polyline through the values, oldest first; empty for fewer than two."""
    if len(values) < 2:  # noqa: PLR2004 - a line has two ends
        return ""
    top, step = max(*values, 1e-9), CURVE_WIDTH / (len(values) - 1)
    return " ".join(
        f"{index * step:.1f},{CURVE_HEIGHT - 1 - value / top * (CURVE_HEIGHT - 2):.1f}"
        for index, value in enumerate(values)
    )


def format_budget(budget: AccountUsage) -> str:
    """Write what an account has used of its quotas: `llm.main: 12 of 500 requests, paused`."""
    used = (
        f"{amount:,} of {most:,} {unit}"
        for amount, most, unit in (
            (budget.used.requests, budget.max_requests, "requests"),
            (budget.used.tokens, budget.max_tokens, "tokens"),
        )
        if most is not None
    )
    paused = ["paused"] if budget.paused_until else []
    return f"{budget.account}: {', '.join([*used, *paused]) or 'no limit'}"


def format_error_type(error: str) -> str:
    """Write the type of `Type: message`: a message may quote the content of an event."""
    return error.partition(":")[0] if re.match(r"[\w.]+:", error) else "an error"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"  # noqa: PLR2004 - three digits


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "age": format_age,
    "budget": format_budget,
    "moment": format_moment,
    "clock": format_clock,
    "json": format_json,
    "curve": draw_curve,
    "error_type": lambda error: format_error_type(error) if error else "",
    "rate": _rate,
    "shorten": shorten,
    "printable_lines": lambda text: printable_lines(str(text)),
    "printable": lambda text: replace_unprintable(str(text)),
}
