"""List the deliveries that wait for a newer or an older worker, and release them."""

from __future__ import annotations

import click

from petiole.tasks.stores.parked import RELEASED_PER_CALL, Parked, ParkedDeliveries
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import acting, connected_app, json_option, operator_option, reason_option


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List parked deliveries by what they need: a handler, an event type, or a newer version of one.

    No worker that took them has it. They are no failures: a worker that has it takes them when it starts.
    """
    if ctx.invoked_subcommand is not None:
        return
    parked = connected_app().stores.parked.read()
    if as_json:
        print_json([_describe(each) for each in parked])
    elif parked:
        cells = [
            (
                each.need.queue,
                str(each.need),
                f"{each.count:,}",
                f"{each.since.astimezone():%Y-%m-%d %H:%M}",
                each.reason,
            )
            for each in parked
        ]
        open_console().print(render_table(("queue", "needs", "parked", "since", "reason"), cells, numbers=("parked",)))
    else:
        open_console().print("no delivery is parked")


@command.command
@click.option("--queue", metavar="NAME", help="Only those of this queue.")
@operator_option
@reason_option
@json_option
def release(queue: str | None, *, operator: str | None, reason: str, as_json: bool) -> None:
    """Return parked deliveries to their queues. A worker that still lacks what they need parks them again."""
    bus = connected_app()
    with acting(bus, "deliveries.released", queue or "all queues", operator=operator, reason=reason):
        released = sum(
            _release(bus.stores.parked, each) for each in bus.stores.parked.read() if queue in {None, each.need.queue}
        )
    if as_json:
        print_json({"released": released})
    else:
        open_console().print(f"released {released:,} deliveries")


def _release(store: Parked, parked: ParkedDeliveries) -> int:
    # Those only that are parked now: a worker may park them again meanwhile.
    left = parked.count
    while left > 0 and (count := store.release(parked.need, min(left, RELEASED_PER_CALL))):
        left -= count
    return parked.count - left


def _describe(parked: ParkedDeliveries) -> dict[str, object]:
    need = parked.need
    return {
        "queue": need.queue,
        "kind": need.kind,
        "name": need.name,
        "version": need.version or None,
        "count": parked.count,
        "since": parked.since.isoformat(),
        "reason": parked.reason,
    }
