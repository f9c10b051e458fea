"""What several commands share: an option, the bus, and how the reader gets here again."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from petiole.events.errors import UsageError
from petiole.events.topics import check_pattern
from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.settings import WorkerSettings

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
an_operator = click.option(
    "--operator",
    metavar="NAME",
    default=lambda: WorkerSettings().operator,
    help="Who does it; by default PETIOLE_OPERATOR, else user@host.",
)


def json_object(ctx: click.Context, param: click.Parameter, value: str) -> dict[str, object]:  # noqa: ARG001 - click's signature
    """Read an option that holds a JSON object. Raises BadParameter."""
    try:
        content = json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise click.BadParameter('write a JSON object, such as \'{"text": "Hello"}\'')
    return content


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Moment(click.ParamType[datetime]):
    """A point in time: ISO 8601, without a zone the local one; or how long ago, such as 10m."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            if ago := re.fullmatch(r"(\d{1,9})([smhd])", value):
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 30m, 2h or 3d for so long ago, or 2026-01-31T12:00", param, ctx)


class _Pattern(click.ParamType[str]):
    """A topic, or one with '*'."""

    name = "pattern"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_pattern(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


A_MOMENT = _Moment()
A_PATTERN = _Pattern()


def connected_app() -> BusRuntime:
    """Return the app. Raises NotConfigured where no broker is known; whether it answers shows when it is used."""
    default_bus.require_broker()
    return default_bus


def as_typed(command: str = "") -> str:
    """Word a command so that it can be typed here: with its path where `petiole` alone is not found."""
    program = Path(sys.argv[0])
    is_found = program.name != "petiole" or shutil.which("petiole")
    return f"{'petiole' if is_found else os.path.relpath(program)} {command}".rstrip()
