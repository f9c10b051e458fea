"""Print the metrics of the whole system in Prometheus' format."""

from __future__ import annotations

import click

from petiole.tasks.operations.prometheus import render_metrics
from petiole.workers.cli._options import connected_app


@click.command
def command() -> None:
    """Print the metrics of the whole system, as workers serve them at PETIOLE_METRICS_PORT.

    Events are counted where PETIOLE_METRICS=true or PETIOLE_METRICS_PORT is set; queues and circuit breakers are always
    shown.
    """
    bus = connected_app()
    if not bus.settings.counts_events:
        click.echo("events are not counted; set PETIOLE_METRICS=true for publishers and workers", err=True)
    click.echo(render_metrics(bus), nl=False)
