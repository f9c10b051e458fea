"""Clock: the tool that returns the current time in a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field

from petiole.events.errors import invalid_arguments
from petiole.workers.retrieval.search_text import fold_text
from petiole.workers.tools.cities import CITY_ZONES
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import ToolOutput


@tool(repeatable=True)
def clock(
    zone: Annotated[
        str, Field(max_length=100, description="a city, country or IANA zone: 'Tokyo', 'Asia/Tokyo'")
    ] = "UTC",
    days: Annotated[int, Field(ge=-36_500, le=36_500, description="days from today: 1 is tomorrow")] = 0,
) -> ToolOutput:
    """Tell the time, date, day of the week and year in a time zone, now or some days from now."""
    name = find_zone(zone)
    moment = datetime.now(UTC)
    return format_date(moment, ZoneInfo(name), days) if days else format_time(moment, ZoneInfo(name))


def format_time(moment: datetime, zone: ZoneInfo) -> ToolOutput:
    """Format a moment in a time zone; the value is ISO 8601 with seconds."""
    local = moment.astimezone(zone)
    text = f"it is {local:%H:%M on %A, %d %B %Y} ({_place(zone)})"
    return ToolOutput(local.isoformat(timespec="seconds"), text)


def format_date(moment: datetime, zone: ZoneInfo, days: int) -> ToolOutput:
    """Format the date some days from a moment in a time zone; the value is ISO 8601."""
    day = moment.astimezone(zone).date() + timedelta(days=days)
    when = {1: "tomorrow is", -1: "yesterday was"}.get(
        days, f"in {days} days it is" if days > 0 else f"{-days} days ago was"
    )
    return ToolOutput(day.isoformat(), f"{when} {day:%A, %d %B %Y} ({_place(zone)})")


def find_zone(name: str) -> str:
    """Find a zone by its IANA name, city or country, without regard to case and accents.

    Raises UsageError (invalid_arguments).
    """
    zone = _zones().get(_fold(name))
    if zone is None:
        remedy = "give a larger city of the same time zone, or an IANA zone, such as 'Europe/Paris'"
        raise invalid_arguments("clock", "zone", f"{name!r} is unknown; {remedy}")
    return zone


def _place(zone: ZoneInfo) -> str:
    return "UTC" if zone.key == "UTC" else zone.key.replace("_", " ")


def _fold(name: str) -> str:
    return fold_text(name).strip().replace(".", "").replace("_", " ")


@cache
def _zones() -> dict[str, str]:
    zones = sorted(available_timezones())
    cities = {_fold(zone.rsplit("/", 1)[-1]): zone for zone in zones if not zone.startswith(("Etc/", "posix/"))}
    return cities | {_fold(zone): zone for zone in zones} | {_fold(name): zone for name, zone in CITY_ZONES.items()}
