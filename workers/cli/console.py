"""Serve the console: what happens in the system, seen in a browser."""

from __future__ import annotations

import gc
import socket
import sys
from contextlib import suppress

import click

from petiole.workers.cli._console import open_console
from petiole.workers.cli._options import auth_option, connected_app, is_loopback, load_types, open_listener
from petiole.workers.console import CONSOLE_PORT, create_console
from petiole.workers.gateways.tokens import TOKEN_FILE


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=CONSOLE_PORT,
    show_default=True,
    help="The port to listen on; 0 selects a free one.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers reach this server, besides localhost; may be repeated.",
)
@auth_option
@click.option("--listener", type=int, hidden=True, help="The descriptor of a socket that listens already.")
def command(host: str, port: int, hosts: tuple[str, ...], *, always: bool, listener: int | None) -> None:
    """Serve the console until Ctrl-C: live events, agents, conversations, failures, approvals, routing, catalog.

    On loopback a browser of this machine is an admin. Beyond it, and with --auth, everybody signs in with a token of
    PETIOLE_HOME/tokens, which the first start makes.
    """
    bus = connected_app()
    load_types(bus)
    trusts_loopback = is_loopback(host) and not always
    application = create_console(bus, trusts_loopback=trusts_loopback, hosts=(host, *hosts))
    from petiole.workers.channels.http_server import build_server  # noqa: PLC0415 - needs an extra

    server = build_server(application)
    # Else each full collection walks all that was imported: a third of the time of a large conversation's page.
    gc.freeze()
    with open_listener(host, port) if listener is None else socket.socket(fileno=listener) as listening:
        bound_port = listening.getsockname()[1]
        console = open_console()
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}/"
        console.print(f"console: {address}{'   (Ctrl-C ends)' if sys.stdin.isatty() else ''}", soft_wrap=True)
        if not trusts_loopback:
            console.print(f"tokens: {bus.settings.home / TOKEN_FILE}", soft_wrap=True)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed all connections
            server.run(sockets=[listening])
