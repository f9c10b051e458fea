"""Serve the agents over HTTP."""

from __future__ import annotations

from contextlib import suppress

import click

from petiole.workers.cli._console import open_console
from petiole.workers.cli._options import auth_option, connected_app, is_loopback, open_listener
from petiole.workers.gateways.application import check_extra, create_application, installed_gateways
from petiole.workers.gateways.tokens import TOKEN_FILE


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8765,
    show_default=True,
    help="The port to listen on; 0 selects a free one.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="The maximum number of concurrent requests; a reader of events is one as long as it is connected.",
)
@click.option(
    "--connections-per-client",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="The maximum number of concurrent requests from one address; a proxy on this host names its clients in "
    "X-Forwarded-For.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which clients reach this server, besides localhost; may be repeated.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="The origin of a page that may use this server, such as http://localhost:3000; may be repeated.",
)
@auth_option
def command(
    *,
    host: str,
    port: int,
    connections: int,
    connections_per_client: int,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    always: bool,
) -> None:
    """Serve the agents over HTTP until Ctrl-C: messages, answers as server-sent events, and each installed protocol.

    On loopback a caller of this machine is an admin. Beyond it, and with --auth, every caller sends a token of
    PETIOLE_HOME/tokens, which the first start makes, or of the issuer PETIOLE_OIDC_ISSUER. A user reads and writes only
    streams of its own.
    """
    check_extra()
    from petiole.workers.channels.http_server import build_server  # noqa: PLC0415 - needs an extra
    from petiole.workers.gateways.access import AccessLimits  # noqa: PLC0415 - as above

    bus, trusts_loopback = connected_app(), is_loopback(host) and not always
    # `--host` may be a name, under which clients then reach the server.
    application = create_application(
        bus,
        trusts_loopback=trusts_loopback,
        hosts=(host, *hosts),
        origins=origins,
        limits=AccessLimits(connections=connections, connections_per_client=connections_per_client),
    )
    server = build_server(application)
    with open_listener(host, port) as listener:
        url = f"http://{host}:{listener.getsockname()[1]}"
        open_console().print(f"serving {url}/streams/ID/events and …/text   (Ctrl-C ends)", highlight=False)
        open_console().print(f"gateways: {', '.join(installed_gateways())}", style="dim", highlight=False)
        if "chat_page" in installed_gateways():
            open_console().print(f"chat: {url}/chat", highlight=False)
        if not trusts_loopback:
            open_console().print(f"tokens: {bus.settings.home / TOKEN_FILE}", soft_wrap=True)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed all connections
            server.run(sockets=[listener])
