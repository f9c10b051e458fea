"""Tell whether a worker on this machine gets on, whatever its broker does: exit code 0, or 1 and the reason."""

from __future__ import annotations

import click

from petiole.workers.observability.liveness import find_liveness_problem


@click.command
@click.argument("node")
def command(node: str) -> None:
    """Tell whether the worker NODE (name@host) on this machine gets on; its broker is not asked.

    For liveness probes: exits with 0, or with 1 and the reason.
    """
    if reason := find_liveness_problem(node):
        raise click.ClickException(f"not alive: {reason}")
    click.echo("alive")
