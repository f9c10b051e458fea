"""Print an AsyncAPI 3 document: event types with their schemas, and who receives what."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import click
from celery.utils.imports import cwd_in_path

from petiole.events.asyncapi import SystemInfo, build_asyncapi
from petiole.events.subscriptions import Subscription
from petiole.tasks.bus import default_bus
from petiole.workers.cli._options import connected_app, load_types
from petiole.workers.process.discovery import configured_agents


@click.command
@click.option("--title", default="Petiole", show_default=True, help="The name of your system.")
@click.option("--system-version", default="1.0.0", show_default=True, help="The version of your system.")
@click.option(
    "--live", is_flag=True, help="The subscriptions of the running system, instead of those of PETIOLE_AGENTS."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def command(title: str, system_version: str, *, live: bool, output: Path | None) -> None:
    """Print an AsyncAPI 3 document, as JSON: a channel per event type, an operation per subscription.

    Subscriptions are those of the agents in PETIOLE_AGENTS; this needs no broker. With --live they are those that the
    running system knows, and the document names its broker.
    """
    registry = load_types(default_bus)
    info = SystemInfo(title, system_version, *(_server() if live else ("", "")))
    document = build_asyncapi(info, registry.all(), _live_subscriptions() if live else _declared_subscriptions())
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
    else:
        output.write_text(f"{text}\n", encoding="utf-8")


def _declared_subscriptions() -> list[Subscription]:
    with cwd_in_path():
        return [subscription for agent in configured_agents() for subscription in agent.subscriptions]


def _live_subscriptions() -> list[Subscription]:
    _, subscriptions = connected_app().stores.directory.read()
    return list(subscriptions)


def _server() -> tuple[str, str]:
    """Return `host:port` and protocol of the broker; never its user or password."""
    url = urlsplit(str(connected_app().app.conf.broker_url).partition(";")[0])
    port = f":{url.port}" if url.port else ""
    return f"{url.hostname or url.path}{port}", "amqp" if url.scheme.startswith(("amqp", "pyamqp")) else "redis"
