"""Tell whether events can be published and handled now: exit code 0, or 1 and the reason."""

from __future__ import annotations

import click

from petiole.tasks.bus import default_bus
from petiole.workers.observability.readiness import find_readiness_problem


@click.command
@click.option("--queue", help="A worker has to consume this queue.")
@click.option("--worker", metavar="NODE", help="This worker has to consume: its node name, or all before the @.")
def command(queue: str | None, worker: str | None) -> None:
    """Tell whether broker and state store answer, within three seconds, and whether a worker consumes.

    For readiness probes: exits with 0, or with 1 and the reason.
    """
    if reason := find_readiness_problem(default_bus, queue=queue, worker=worker):
        raise click.ClickException(f"not ready: {reason}")
    click.echo("ready")
