"""Cancel a flow: end all that runs or waits for it."""

from __future__ import annotations

import click

from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.workers.cli._options import connected_app, load_types, operator_option


@click.command
@click.argument("flow", metavar="FLOW")
@click.option("--reason", default="", metavar="TEXT", help="Why; it is recorded.")
@operator_option
def command(flow: str, reason: str, operator: str | None) -> None:
    """Cancel a flow: its running models, tools and handlers are interrupted, and nothing of it starts any more.

    FLOW is the correlation id of the flow; `petiole trace --last 5` shows it. What was published stays recorded.
    """
    bus = connected_app()
    load_types(bus)
    published = cancel_flow(flow, by=operator, reason=reason, bus=bus)
    click.echo(f"{'already cancelled' if published.was_repeated else 'cancelled'}: flow {flow}")
