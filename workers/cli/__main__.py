"""`python -m petiole.workers.cli`: the command line where its script is not installed."""

from __future__ import annotations

from petiole.workers.cli import petiole

petiole(prog_name="petiole")
