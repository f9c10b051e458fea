"""Check that a worker on this machine makes progress, without asking its broker."""

from __future__ import annotations

import click

from petiole.workers.observability.liveness import find_liveness_problem


@click.command
@click.argument("node")
def command(node: str) -> None:
    """Check that the worker NODE (name@host) on this machine makes progress, without asking its broker.

    For liveness probes: exits with 0, or with 1 and the reason.
    """
    if reason := find_liveness_problem(node):
        raise click.ClickException(f"not alive: {reason}")
    click.echo("alive")
