"""Clock: the tool that returns the current time in a time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field

from petiole.events.errors import invalid_arguments
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import ToolOutput


@tool(repeatable=True)
def clock(
    zone: Annotated[str, Field(max_length=100, description="IANA zone or its city: 'Asia/Tokyo', 'Tokyo'")] = "UTC",
) -> ToolOutput:
    """Tell the date and time now in a time zone."""
    name = find_zone(zone)
    return format_time(datetime.now(UTC), ZoneInfo(name))


def format_time(moment: datetime, zone: ZoneInfo) -> ToolOutput:
    """Format a moment in a time zone; the value is ISO 8601 with seconds."""
    local = moment.astimezone(zone)
    place = "UTC" if zone.key == "UTC" else zone.key.replace("_", " ")
    return ToolOutput(local.isoformat(timespec="seconds"), f"it is {local:%H:%M on %A, %d %B %Y} ({place})")


def find_zone(name: str) -> str:
    """Find a zone by its IANA name or its city, ignoring case. Raises UsageError (invalid_arguments)."""
    zone = _zones().get(name.strip().replace(" ", "_").casefold())
    if zone is None:
        raise invalid_arguments("clock", "zone", f"{name!r} is unknown; give an IANA zone, such as 'Europe/Paris'")
    return zone


@cache
def _zones() -> dict[str, str]:
    zones = sorted(available_timezones())
    cities = {zone.rsplit("/", 1)[-1].casefold(): zone for zone in zones if not zone.startswith(("Etc/", "posix/"))}
    return cities | {zone.casefold(): zone for zone in zones}
