"""Show the effective settings, where each value comes from, with secrets masked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime, joined
from petiole.tasks.settings import Settings, variable_of
from petiole.tasks.transport.address import mask_address, mask_secrets
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import json_option
from petiole.workers.settings import MODELS

_SECRET = "***"  # noqa: S105 - what stands in its place
_ADDRESSES = frozenset({"broker_url", "state_url"})


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """A setting as this process uses it. `source` is environment, celeryconfig, embedded broker, broker or default."""

    variable: str
    value: str
    source: str
    description: str


@click.command
@click.option("--changed", is_flag=True, help="Only settings that do not have their default.")
@json_option
def command(*, changed: bool, as_json: bool) -> None:
    """List every setting: its environment variable, the value in this process, and where the value comes from.

    Passwords and keys are shown as ***. Connects to nothing.
    """
    settings = [each for each in effective_settings(default_bus) if not (changed and each.source == "default")]
    if as_json:
        print_json([asdict(each) for each in settings])
        return
    cells = [(each.variable, each.value, each.source) for each in settings]
    open_console().print(render_table(("setting", "value", "source"), cells))


def effective_settings(bus: BusRuntime) -> Iterator[EffectiveSetting]:
    """List the settings of a bus and of the processes, in the order of docs/settings.md."""
    for model in MODELS:
        values = bus.settings if model is Settings else model()
        for name, field in model.model_fields.items():
            value, source = _value_and_source(bus, model, values, name)
            yield EffectiveSetting(variable_of(model, name), value, source, field.description or "")


def _value_and_source(bus: BusRuntime, model: type[BaseSettings], values: BaseSettings, name: str) -> tuple[str, str]:
    if name in _ADDRESSES:
        return _address_and_source(bus, name)
    value, field = getattr(values, name), model.model_fields[name]
    variable = variable_of(model, name)
    is_set = bool(os.environ.get(variable)) or name in values.model_fields_set
    shown = _format(value)
    if shown and (not field.repr or isinstance(value, SecretStr)):
        shown = _SECRET
    return mask_secrets(shown), "environment" if is_set else "default"


def _address_and_source(bus: BusRuntime, name: str) -> tuple[str, str]:
    """Find an address, which Celery's configuration or the embedded broker may give as well."""
    settings = bus.settings
    if given := getattr(settings, name):
        return mask_address(given), "environment"
    address = mask_address(joined(bus.app.conf.broker_write_url))
    if name == "state_url":
        return address, "broker"
    if not address:
        return "", "default"
    is_embedded = joined(bus.app.conf.broker_write_url) == settings.embedded_broker_url
    return address, "embedded broker" if is_embedded else "Celery's broker_url"


def _format(value: Any) -> str:
    """Format a value as in its environment variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.15g}"
    return "" if value is None or value == {} else str(value)
