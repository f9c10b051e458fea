"""Options and types that several commands share, and the bus that they use."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
from celery.utils.imports import cwd_in_path

from petiole.events.catalog.operator import OperatorAction
from petiole.events.errors import UsageError
from petiole.events.registry import EventRegistry
from petiole.events.texts import safe_text
from petiole.events.topics import check_pattern
from petiole.tasks.bus import default_bus
from petiole.tasks.operations.audit import record_action
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.runtime import BusRuntime
from petiole.workers.observability.tracing import install_tracing
from petiole.workers.process.discovery import load_agents
from petiole.workers.settings import WorkerSettings

_MAX_REASON_LENGTH = 500

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
auth_option = click.option("--auth", "always", is_flag=True, help="Ask callers on this machine for a token, too.")
operator_option = click.option(
    "--operator",
    metavar="NAME",
    default=lambda: WorkerSettings().operator,
    help="Who does this; by default PETIOLE_OPERATOR, else user@host.",
)
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; it is recorded.")


def parse_json_object(ctx: click.Context, param: click.Parameter, value: str) -> dict[str, object]:  # noqa: ARG001 - click's signature
    """Parse an option's JSON object. Raises BadParameter."""
    try:
        content = json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise click.BadParameter('write a JSON object, such as \'{"text": "Hello"}\'')
    return content


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _TimeType(click.ParamType[datetime]):
    """A point in time: ISO 8601, in the local time zone unless it has one; or an age such as 10m."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            if ago := re.fullmatch(r"(\d{1,9})([smhd])", value):
                return default_bus.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time; write an age such as 30m, 2h or 3d, or 2026-01-31T12:00", param, ctx)


class _PatternType(click.ParamType[str]):
    """A topic, or a pattern with '*'."""

    name = "pattern"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_pattern(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _FiniteRange(click.FloatRange):
    """A number within a range; Click accepts `nan` and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


SECONDS = _FiniteRange(min=0)
POSITIVE = _FiniteRange(min=0, min_open=True)
TIME = _TimeType()
PATTERN = _PatternType()


def connected_app() -> BusRuntime:
    """Return the default bus, without connecting, and with spans of what the command publishes.

    Raises NotConfigured if no broker is configured.
    """
    default_bus.require_broker()
    install_tracing()
    return default_bus


def acting(
    bus: BusRuntime, action: str, target: str, *, operator: str | None, reason: str
) -> AbstractContextManager[None]:
    """Record that an operator does what the block does, and what came of it. Raises BrokerUnavailable."""
    who, why = operator or current_operator(), safe_text(reason, _MAX_REASON_LENGTH)
    return record_action(
        bus, OperatorAction(operator=who, role="operator", action=action, target=safe_text(target) or "-", reason=why)
    )


def load_types(bus: BusRuntime) -> EventRegistry:
    """Return the event types of a bus, with those of PETIOLE_EVENT_TYPES and of the modules in PETIOLE_AGENTS.

    The bundled agents are not loaded: their types are in the catalog. Raises UsageError for a module that is missing.
    """
    with cwd_in_path():
        load_agents(name for name in WorkerSettings().agents if not name.startswith("petiole."))
    return bus.event_registry


def format_command(command: str = "") -> str:
    """Format a command that works in this shell: with the path of `petiole` if it is not on PATH."""
    program = Path(sys.argv[0])
    is_found = program.name != "petiole" or shutil.which("petiole")
    return f"{'petiole' if is_found else os.path.relpath(program)} {command}".rstrip()


def is_loopback(host: str) -> bool:
    """Return whether only callers on this machine reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def open_listener(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises ClickException."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = f"cannot listen on {host!r}, port {port}: {error.strerror}; give another --host or --port"
        raise click.ClickException(reason) from error


def open_loopback_listener(wanted: int) -> socket.socket:
    """Listen on a port of loopback, or on another one if it is taken."""
    try:
        return socket.create_server(("127.0.0.1", wanted))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))
