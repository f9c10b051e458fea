"""List who hears what, tell why, withdraw one."""

from __future__ import annotations

from collections.abc import Iterator

import click

from petiole.events.event import Event
from petiole.events.ids import new_event_id
from petiole.events.subscriptions import Subscription
from petiole.tasks.operations.unsubscribe import drain, purge
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import connected_app, format_command, json_option, parse_json_object


@click.group(invoke_without_command=True)
@click.option(
    "--explain", "event_type", metavar="TYPE", help="Tell of each whether it would get such an event, and why."
)
@click.option("--content", default="{}", metavar="JSON", callback=parse_json_object, help="What that event holds.")
@click.option("--user", metavar="ID", help="For whom it is.")
@click.option("--stream", default="a-stream", show_default=True, metavar="ID", help="The stream it belongs to.")
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
    """List who hears what: every subscription, its queue, its patterns and its options.

    Subscriptions stay until they are withdrawn, whether or not a worker runs. With --explain nothing is published.
    """
    if ctx.invoked_subcommand is not None:
        return
    bus = connected_app()
    if event_type is None:
        _print_subscriptions(bus, as_json=as_json)
    else:
        document = {"event_id": new_event_id(), "event_type": event_type, "stream_id": stream, "content": content}
        event = bus.event_registry.parse(document | {"context": {"user_id": user, "session_id": stream}})
        _print_explanation(bus.routing(), event, as_json=as_json)


@command.command
@click.argument("name")
@click.option("--drain", "drains", is_flag=True, help="What waits for it is still handled.")
@click.option("--purge", "purges", is_flag=True, help="What waits for it is removed from its queue, and counted.")
@json_option
def withdraw(name: str, *, drains: bool, purges: bool, as_json: bool) -> None:
    """Withdraw the subscription NAME: nothing more is sent to it.

    Take its handler out of the code first: a worker that has it announces it anew when it starts.
    """
    if drains is purges:
        raise click.UsageError("say what becomes of what waits for it: either --drain or --purge")
    bus, purged = connected_app(), None
    if purges:
        purged = purge(bus, name)
    else:
        drain(bus, name)
    if as_json:
        print_json({"name": name, "purged": purged})
    else:
        said = "what waits for it is still handled" if purged is None else f"waiting deliveries removed: {purged:,}"
        open_console().print(f"withdrew {name}; {said}")


def _print_subscriptions(bus: BusRuntime, *, as_json: bool) -> None:
    _, subscriptions = bus.stores.directory.read()
    if as_json:
        print_json([{"name": each.name, "queue": each.queue} | _describe(each) for each in subscriptions])
    elif subscriptions:
        cells = [
            (each.name, each.queue, "  ".join(each.patterns), "  ".join(_describe_options(each)))
            for each in subscriptions
        ]
        open_console().print(render_table(("subscription", "queue", "patterns", "options"), cells))
    else:
        open_console().print(f"nobody has subscribed yet; workers do when they start: {format_command('up')}")


def _describe(subscription: Subscription) -> dict[str, object]:
    """Tell what a subscription says of itself beside its name."""
    return subscription.model_dump(mode="json", exclude_defaults=True, exclude={"agent", "function"})


def _describe_options(subscription: Subscription) -> Iterator[str]:
    for option, stated in _describe(subscription).items():
        if option == "where":
            yield f"where {', '.join(subscription.where)}"
        elif option == "shadow":
            yield option
        elif option != "patterns":
            yield f"{option} {stated:g}" if isinstance(stated, float) else f"{option} {stated}"


def _print_explanation(table_of_all: RoutingTable, event: Event, *, as_json: bool) -> None:
    explained = table_of_all.explain(event)
    if as_json:
        print_json(
            [
                {
                    "name": each.subscription.name,
                    "delivered": each.is_delivered,
                    "step": each.step,
                    "reason": each.reason,
                }
                for each in explained
            ]
        )
        return
    cells = [(each.subscription.name, "yes" if each.is_delivered else "no", each.reason) for each in explained]
    open_console().print(render_table(("subscription", "gets it", "why"), cells))
