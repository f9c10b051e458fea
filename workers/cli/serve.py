"""Serve answers over HTTP as server-sent events."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress

import click
from redis.asyncio import Redis as AsyncRedis

from petiole.events.errors import StreamTimeout, StreamTruncated
from petiole.tasks import ResponseStreamReader
from petiole.tasks.runtime import BusRuntime
from petiole.workers.channels.server_sent_events import (
    ConnectionCount,
    ConnectionLimits,
    ServerSentEvent,
    check_extra,
    create_app,
)
from petiole.workers.cli._console import open_console
from petiole.workers.cli._options import connected_app
from petiole.workers.state.keys import StateKeys
from petiole.workers.state.outbound_messages import OUTBOUND_START, OutboundMessageReader

_OUTBOUND_TIMEOUT_S = 4.0
_SILENCE_TIMEOUT_S = 3600.0


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
    default=100,
    show_default=True,
    help="The maximum number of concurrent readers.",
)
@click.option(
    "--connections-per-client",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="The maximum number of concurrent readers from one address; a proxy on this host names its clients in "
    "X-Forwarded-For.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which clients reach this server, besides localhost; may be repeated.",
)
def command(host: str, port: int, connections: int, connections_per_client: int, hosts: tuple[str, ...]) -> None:
    """Serve the answers of all streams as server-sent events until Ctrl-C: sent messages, and chunks as they arrive.

    A client that reaches this address can read every stream whose id it knows. Listen on loopback, behind a server of
    your own that authenticates users.
    """
    check_extra()
    from petiole.workers.channels.http_server import build_server  # noqa: PLC0415 - needs an extra

    limits = ConnectionLimits(connections=connections, per_client=connections_per_client)
    # `--host` may be a name, under which clients then reach the server.
    application = create_app(StoredAnswerStreams(connected_app()), ConnectionCount(limits), hosts=(host, *hosts))
    server = build_server(application)
    with _listen(host, port) as listener:
        bound_port = listener.getsockname()[1]
        open_console().print(
            f"serving http://{host}:{bound_port}/streams/ID/events and …/text   (Ctrl-C ends)", highlight=False
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed all connections
            server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises ClickException."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = f"cannot listen on {host!r}, port {port}: {error.strerror}; give another --host or --port"
        raise click.ClickException(reason) from error


class StoredAnswerStreams:
    """Read the outbound messages and response streams of a bus from an event loop."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._client: AsyncRedis | None = None

    async def messages(self, stream_id: str, place: str | None) -> AsyncIterator[ServerSentEvent]:
        """Yield a stream's outbound messages after a place. Raises BrokerUnavailable, StateStoreUnavailable."""
        if self._client is None:
            # A client belongs to the event loop in which it is created.
            self._client = self._bus.connect_async()
        messages = OutboundMessageReader(self._client, StateKeys(self._bus.settings.key_prefix))
        place = place or OUTBOUND_START
        with self._access(stream_id):
            while True:
                for entry_id, message in await messages.read_after(stream_id, place, _OUTBOUND_TIMEOUT_S):
                    place = entry_id
                    yield ServerSentEvent(place, "message", message.model_dump())

    async def chunks(self, stream_id: str, place: str | None) -> AsyncIterator[ServerSentEvent]:
        """Yield the chunks of a stream's answers after a place; skip chunks that have expired.

        Raises BrokerUnavailable, StateStoreUnavailable.
        """
        after, reader = int(place or 0), ResponseStreamReader(self._bus)
        with self._access(stream_id):
            while True:
                try:
                    async for chunk in reader.all_aio(stream_id, after=after, timeout=_SILENCE_TIMEOUT_S):
                        after = chunk.number
                        data: dict[str, str | int] = {
                            "answer_id": chunk.answer_id,
                            "attempt": chunk.attempt,
                            "text": chunk.text,
                        }
                        yield ServerSentEvent(str(after), chunk.kind, data)
                except StreamTruncated as cut:
                    after = cut.oldest - 1
                except StreamTimeout:
                    # The stream was silent for a long time; its reader stays connected.
                    continue

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _access(self, stream_id: str) -> AbstractContextManager[None]:
        return self._bus.state_store_access(f"reading the answers of {stream_id!r}")
