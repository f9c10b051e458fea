"""Clock: what time it is, here or elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field

from petiole.events.errors import invalid_arguments
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import Finding


@tool
def clock(
    zone: Annotated[str, Field(max_length=100, description="IANA zone or its city: 'Asia/Tokyo', 'Tokyo'")] = "UTC",
) -> Finding:
    """Tell the date and time now in a time zone."""
    name = zone_name(zone)
    return told(datetime.now(UTC), ZoneInfo(name))


def told(moment: datetime, zone: ZoneInfo) -> Finding:
    """Word a moment as the clocks of a zone show it; the value is ISO 8601 to the second."""
    local = moment.astimezone(zone)
    place = "UTC" if zone.key == "UTC" else zone.key.replace("_", " ")
    return Finding(local.isoformat(timespec="seconds"), f"it is {local:%H:%M on %A, %d %B %Y} ({place})")


def zone_name(wanted: str) -> str:
    """Find a zone by its IANA name or by its city, in any case. Raises: UsageError (invalid_arguments)."""
    found = _zones().get(wanted.strip().replace(" ", "_").casefold())
    if found is None:
        raise invalid_arguments("clock", "zone", f"knows no {wanted!r}; give an IANA zone, such as 'Europe/Paris'")
    return found


@cache
def _zones() -> dict[str, str]:
    every = sorted(available_timezones())
    cities = {zone.rsplit("/", 1)[-1].casefold(): zone for zone in every if not zone.startswith(("Etc/", "posix/"))}
    return cities | {zone.casefold(): zone for zone in every}
