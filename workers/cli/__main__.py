"""`python -m petiole.workers.cli`: run the command line without the installed script."""

from __future__ import annotations

from petiole.workers.cli import petiole

petiole(prog_name="petiole")
