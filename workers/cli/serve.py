"""Serve answers over HTTP, as server-sent events"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress

import click
from redis.asyncio import Redis as AsyncRedis

from petiole.events.errors import StreamTimeout, StreamTruncated, missing_extra
from petiole.tasks import AnswerReader
from petiole.tasks.runtime import BusRuntime
from petiole.workers.channels.server_sent_events import Gate, Limits, Sent, create_app
from petiole.workers.cli._console import open_console
from petiole.workers.cli._options import connected_app
from petiole.workers.state.keys import StateKeys
from petiole.workers.state.outbound_messages import BEGINNING, RepliesRead

_LOOK_S = 4.0
_PATIENCE_S = 3600.0


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0 is any that is free.")
@click.option(
    "--connections", type=click.IntRange(min=1), default=100, show_default=True, help="How many may read at once."
)
def command(host: str, port: int, connections: int) -> None:
    """Serve the answers of every stream as server-sent events, delivered and while they are written, until Ctrl-C.

    Whoever reaches the address reads any stream whose id it knows: leave it at this machine, and let a server of yours
    that knows its users stand before it.
    """
    try:
        import uvicorn  # noqa: PLC0415 - it comes with an extra
    except ModuleNotFoundError as error:
        raise missing_extra("petiole serve", "sse") from error
    served = create_app(AnswersOf(connected_app()), Gate(Limits(connections=connections)))
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        at = listener.getsockname()[1]
        open_console().print(
            f"serving http://{host}:{at}/streams/ID/events and …/text   (Ctrl-C ends)", highlight=False
        )
        settings = uvicorn.Config(served, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
        with suppress(KeyboardInterrupt):  # raised once more when all readers were let go
            uvicorn.Server(settings).run(sockets=[listener])


class AnswersOf:
    """The mailboxes and the drafts of an bus, for the loop that serves them."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._client: AsyncRedis | None = None

    async def messages(self, stream_id: str, place: str | None) -> AsyncIterator[Sent]:
        """Read a stream's mailbox after a place. Raises BrokerUnavailable, StateStoreUnavailable."""
        if self._client is None:
            # A client belongs to the loop that it is made in.
            self._client = self._bus.connect_async()
        replies = RepliesRead(self._client, StateKeys(self._bus.settings.key_prefix))
        place = place or BEGINNING
        with self._access(stream_id):
            while True:
                for entry_id, reply in await replies.after(stream_id, place, _LOOK_S):
                    place = entry_id
                    yield Sent(place, "message", reply.model_dump())

    async def pieces(self, stream_id: str, place: str | None) -> AsyncIterator[Sent]:
        """Read the answers that are being written in a stream after a place; what is not kept any more is left out.

        Raises BrokerUnavailable, StateStoreUnavailable.
        """
        after, reader = int(place or 0), AnswerReader(self._bus)
        with self._access(stream_id):
            while True:
                try:
                    async for piece in reader.all_aio(stream_id, after=after, timeout=_PATIENCE_S):
                        after = piece.number
                        says: dict[str, str | int] = {
                            "answer_id": piece.answer_id,
                            "attempt": piece.attempt,
                            "text": piece.text,
                        }
                        yield Sent(str(after), piece.kind, says)
                except StreamTruncated as cut:
                    after = cut.oldest - 1
                except StreamTimeout:
                    # Nobody has said anything for long. That is no reason to let a reader go.
                    continue

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _access(self, stream_id: str) -> AbstractContextManager[None]:
        return self._bus.state_store_access(f"reading the answers of {stream_id!r}")
