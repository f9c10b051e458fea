"""A proxy between clients and the broker that can be slow, narrow, silent, deaf, or gone.

    proxy.latency_s = 0.05        every piece arrives so much later, each way
    proxy.bytes_per_s = 10_000    no more than that gets through, each way
    proxy.is_silent = True        connections stay open and are accepted, and what is sent goes nowhere (half-open);
                                  those that it happened to stay so
    proxy.refuse()                new connections are reset, open ones are reset; until `accept()`
    proxy.cut(after_bytes=100)    the connection that sends the 100th byte from now on is reset in its middle
    proxy.lose_answers(to=b"GET") the broker does what such a request asks for; in place of its answer there is a reset

It is a thread of the test with an event loop of its own; it forwards bytes and knows no protocol.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

_PIECE = 65_536


@dataclass
class Loss:
    """The next `times` answers to requests with the bytes `to` get lost, if they have the bytes `containing`."""

    to: bytes
    containing: bytes
    times: int


@dataclass
class _Wire:
    """One connection: what was asked last."""

    asked: bytes = b""


class Proxy:
    """Listens on a port of its own, and forwards to the broker of `url`. Settings may change at any time."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._cut_after: int | None = None
        self._refuses = False
        self._losses: list[Loss] = []
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.is_silent = False
        self.connections = 0
        """How many were accepted so far."""
        self.cuts = 0

    @property
    def url(self) -> str:
        """The broker's URL by way of the proxy."""
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))

    def refuse(self) -> None:
        """Reset all connections, and new ones as they come."""
        self._refuses = True
        self.reset()

    def accept(self) -> None:
        """Take connections again."""
        self._refuses = False

    def reset(self) -> None:
        """Reset the connections that are open now."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def cut(self, *, after_bytes: int) -> None:
        """Reset the connection on which clients have sent so many bytes from now on, all connections counted."""
        self._cut_after = after_bytes

    def lose_answers(self, *, to: bytes, containing: bytes = b"", times: int = 1) -> Loss:
        """Reset a connection when such an answer arrives, and lose the answer.

        Returns: the loss, whose `times` count down.
        """
        loss = Loss(to, containing, times)
        self._losses.append(loss)
        return loss

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self._refuses:
                return
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._writers.add(far_writer)
            try:
                wire = _Wire()
                ways = [
                    asyncio.ensure_future(self._pump(reader, far_writer, wire, is_request=True)),
                    asyncio.ensure_future(self._pump(far_reader, writer, wire, is_request=False)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            finally:
                self._writers.discard(far_writer)
                _reset(far_writer)
        except OSError:
            return  # the broker is gone, and so is the connection to it
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: _Wire, *, is_request: bool
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.ensure_future(self._arrive(under_way, writer))
        try:
            while piece := await reader.read(_PIECE):
                if is_request:
                    wire.asked = piece
                if self._is_cut(piece) if is_request else self._is_lost(piece, wire.asked):
                    break
                await under_way.put((self._loop.time() + self.latency_s, piece))
            await under_way.put((0.0, b""))
            if not reader.at_eof():
                return
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        is_deaf = False
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(due - self._loop.time())
            if self.bytes_per_s:
                await asyncio.sleep(len(piece) / self.bytes_per_s)
            is_deaf = is_deaf or self.is_silent
            if is_deaf:
                continue
            if not piece:
                return
            writer.write(piece)
            await writer.drain()

    def _is_cut(self, piece: bytes) -> bool:
        if self._cut_after is None:
            return False
        self._cut_after -= len(piece)
        if self._cut_after > 0:
            return False
        self._cut_after = None
        self.cuts += 1
        return True

    def _is_lost(self, answer: bytes, asked: bytes) -> bool:
        for loss in self._losses:
            if loss.times and loss.to in asked and loss.containing in answer:
                loss.times -= 1
                return True
        return False

    def _run(self, is_open: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._forward, "127.0.0.1", 0))
        self._port: int = self._server.sockets[0].getsockname()[1]
        is_open.set()
        self._loop.run_forever()
        self._server.close()
        self._reset_all()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.01))  # what was aborted closes its socket in a later turn
        self._loop.close()


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """Run a proxy to the broker of `url`."""
    proxy = Proxy(url)
    is_open = threading.Event()
    thread = threading.Thread(target=proxy._run, args=(is_open,), daemon=True)
    thread.start()
    assert is_open.wait(10)
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(proxy._loop.stop)
        thread.join(10)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a farewell: the peer gets a reset, as from a machine that went away."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
