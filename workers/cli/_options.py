"""What several commands share: an option, the app, and how the reader gets here again."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from tasks.celery import EventApp, app

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


def connected_app() -> EventApp:
    """Return the app. Raises NotConfigured where no broker is known; whether it answers shows when it is used."""
    app.require_broker()
    return app


def as_typed(command: str = "") -> str:
    """Word a command so that it can be typed here: with its path where `petiole` alone is not found."""
    program = Path(sys.argv[0])
    is_found = program.name != "petiole" or shutil.which("petiole")
    return f"{'petiole' if is_found else os.path.relpath(program)} {command}".rstrip()
