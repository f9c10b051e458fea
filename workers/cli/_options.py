"""What several commands share: an option, the app, and how the reader gets here again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import click

from tasks.celery import EventApp, app

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


def json_object(ctx: click.Context, param: click.Parameter, value: str) -> dict[str, object]:  # noqa: ARG001 - click's signature
    """Read an option that holds a JSON object. Raises BadParameter."""
    try:
        content = json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise click.BadParameter('write a JSON object, such as \'{"text": "Hello"}\'')
    return content


def connected_app() -> EventApp:
    """Return the app. Raises NotConfigured where no broker is known; whether it answers shows when it is used."""
    app.require_broker()
    return app


def as_typed(command: str = "") -> str:
    """Word a command so that it can be typed here: with its path where `petiole` alone is not found."""
    program = Path(sys.argv[0])
    is_found = program.name != "petiole" or shutil.which("petiole")
    return f"{'petiole' if is_found else os.path.relpath(program)} {command}".rstrip()
