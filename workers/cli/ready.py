"""Check that events can be published and handled now."""

from __future__ import annotations

import click

from petiole.tasks.bus import default_bus
from petiole.workers.observability.readiness import find_readiness_problem


@click.command
@click.option("--queue", help="Require a worker that consumes this queue.")
@click.option(
    "--worker", metavar="NODE", help="Require this worker to consume: its node name, or the part before the @."
)
def command(queue: str | None, worker: str | None) -> None:
    """Check within three seconds that both servers reply and a handler is subscribed; optionally, a worker consumes.

    For readiness probes: exits with 0, or with 1 and the reason.
    """
    if reason := find_readiness_problem(default_bus, queue=queue, worker=worker):
        raise click.ClickException(f"not ready: {reason}")
    click.echo("ready")
