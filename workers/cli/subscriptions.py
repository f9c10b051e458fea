"""List the subscriptions, explain the routing of an event, withdraw a subscription."""

from __future__ import annotations

from collections.abc import Iterator

import click

from petiole.events.event import Event
from petiole.events.ids import new_event_id
from petiole.events.subscriptions import Subscription
from petiole.tasks.operations.unsubscribe import drain, purge, reroute
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._handlers import describe_without_handler, find_without_handler
from petiole.workers.cli._options import (
    acting,
    connected_app,
    format_command,
    json_option,
    load_types,
    operator_option,
    parse_json_object,
    reason_option,
)


@click.group(invoke_without_command=True)
@click.option(
    "--explain", "event_type", metavar="TYPE", help="Show for each whether it would get such an event, and why."
)
@click.option("--content", default="{}", metavar="JSON", callback=parse_json_object, help="The content of that event.")
@click.option("--user", metavar="ID", help="The user of that event.")
@click.option("--stream", default="a-stream", show_default=True, metavar="ID", help="The stream of that event.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    event_type: str | None,
    content: dict[str, object],
    user: str | None,
    stream: str,
    *,
    as_json: bool,
) -> None:
    """List every subscription with its queue, patterns and options.

    A subscription stays until it is withdrawn, whether or not a worker runs; one whose handler no running worker of its
    agent has is named below the list. --explain publishes nothing.
    """
    if ctx.invoked_subcommand is not None:
        return
    bus = connected_app()
    if event_type is None:
        _print_subscriptions(bus, as_json=as_json)
    else:
        document = {"event_id": new_event_id(), "event_type": event_type, "stream_id": stream, "content": content}
        event = load_types(bus).parse(document | {"context": {"user_id": user, "session_id": stream}})
        _print_explanation(bus.routing(), event, as_json=as_json)


@command.command
@click.argument("name")
@click.option("--drain", "drains", is_flag=True, help="Its waiting deliveries are still handled.")
@click.option("--purge", "purges", is_flag=True, help="Its waiting deliveries are removed and counted.")
@click.option("--to", "target", metavar="NAME", help="Its waiting deliveries go to this subscription: it was renamed.")
@operator_option
@reason_option
@json_option
def withdraw(
    name: str,
    *,
    drains: bool,
    purges: bool,
    target: str | None,
    operator: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Withdraw the subscription NAME: it gets no further events.

    Remove its handler from the code first: a worker that has the handler registers the subscription again.
    """
    if [drains, purges, target is not None].count(True) != 1:
        raise click.UsageError("deliveries may be waiting: use one of --drain, --purge and --to")
    bus, purged, rerouted = connected_app(), None, None
    effect = "waiting deliveries are still handled"
    with acting(bus, "subscription.withdrawn", name, operator=operator, reason=reason):
        if purges:
            purged = purge(bus, name)
            effect = f"waiting deliveries removed: {purged:,}"
        elif target is not None:
            rerouted = reroute(bus, name, target)
            effect = f"waiting deliveries moved to {target}: {rerouted:,}"
        else:
            drain(bus, name)
    if as_json:
        print_json({"name": name, "purged": purged, "rerouted": rerouted})
    else:
        open_console().print(f"withdrew {name}; {effect}")


def _print_subscriptions(bus: BusRuntime, *, as_json: bool) -> None:
    _, subscriptions = bus.stores.directory.read()
    without_handler = find_without_handler(bus, subscriptions)
    if as_json:
        missing = {name: {"handler": "missing"} for name in without_handler}
        rows = [{"name": one.name, "queue": one.queue} | _describe(one) for one in subscriptions]
        print_json([row | missing.get(str(row["name"]), {}) for row in rows])
    elif subscriptions:
        cells = [
            (one.name, one.queue, "  ".join(one.patterns), "  ".join(_describe_options(one))) for one in subscriptions
        ]
        console = open_console()
        console.print(render_table(("subscription", "queue", "patterns", "options"), cells))
        for name in sorted(without_handler):
            console.print(describe_without_handler(name))
    else:
        open_console().print(
            f"there are no subscriptions; a worker registers them when it starts: {format_command('up')}"
        )


def _describe(subscription: Subscription) -> dict[str, object]:
    """Return the patterns and options of a subscription as JSON."""
    return subscription.model_dump(mode="json", exclude_defaults=True, exclude={"agent", "function"})


def _describe_options(subscription: Subscription) -> Iterator[str]:
    for option, value in _describe(subscription).items():
        if option == "where":
            yield f"where {', '.join(subscription.where)}"
        elif option == "shadow":
            yield option
        elif option != "patterns":
            yield f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"


def _print_explanation(routing_table: RoutingTable, event: Event, *, as_json: bool) -> None:
    explanations = routing_table.explain(event)
    if as_json:
        print_json(
            [
                {
                    "name": one.subscription.name,
                    "delivered": one.is_delivered,
                    "step": one.step,
                    "reason": one.reason,
                }
                for one in explanations
            ]
        )
        return
    cells = [(one.subscription.name, "yes" if one.is_delivered else "no", one.reason) for one in explanations]
    open_console().print(render_table(("subscription", "delivered", "reason"), cells))
