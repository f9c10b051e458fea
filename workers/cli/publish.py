"""Publish an event."""

from __future__ import annotations

import click

from petiole.events.event import Event
from petiole.events.ids import new_event_id
from petiole.tasks import publish
from petiole.workers.cli._console import open_console, print_json
from petiole.workers.cli._options import connected_app, json_option, load_types, parse_json_object


@click.command
@click.argument("event_type", metavar="TYPE")
@click.option("--stream", required=True, metavar="ID", help="The conversation that the event belongs to.")
@click.option(
    "--content", default="{}", metavar="JSON", callback=parse_json_object, help="The content, as a JSON object."
)
@click.option("--user", metavar="ID", help="The user of the event.")
@click.option("--source", default="petiole", show_default=True, metavar="NAME", help="The source of the event.")
@click.option("--delay/--now", "is_delayed", help="Publish through a worker; by default this process publishes.")
@json_option
def command(
    event_type: str,
    stream: str,
    content: dict[str, object],
    user: str | None,
    source: str,
    *,
    is_delayed: bool,
    as_json: bool,
) -> None:
    """Publish an event of TYPE, such as input.message.received.

    The event is validated first; an invalid event is not sent.
    """
    bus = connected_app()
    context = {"source": source, "user_id": user, "session_id": stream}
    document = {"event_id": new_event_id(), "event_type": event_type, "stream_id": stream}
    event = load_types(bus).parse(document | {"content": content, "context": context})
    subscriptions = None
    if is_delayed:
        publish.delay(event)
    else:
        subscriptions = publish(event).subscriptions
    if as_json:
        print_json({"event_id": event.event_id, "subscriptions": subscriptions})
    else:
        _print_subscriptions(event, subscriptions)


def _print_subscriptions(event: Event, subscriptions: tuple[str, ...] | None) -> None:
    console = open_console()
    console.print(f"published {event.event_type} as {event.event_id}", style="bold")
    if subscriptions is None:
        console.print("queued in 'publish'; a worker will publish it")
    else:
        console.print(f"sent to {', '.join(subscriptions) or 'no subscription: none matches'}")
