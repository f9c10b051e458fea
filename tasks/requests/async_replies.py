"""Receive the replies to the requests of an asyncio event loop over one connection.

    request.aio(...)   ─ sent by one of a few threads ─▶  responder
           │                                                 │
        future  ◀─ one task reads ◀─ one list in Redis ◀─────┘

Waiting uses no thread, however many requests are pending. Sending uses a thread for about a millisecond, because
publishing may block on a full queue and must not block the event loop. The task reads only while requests are pending.
The connection is closed when the event loop ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.errors import duplicate_request
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing import threads
from petiole.tasks.requests.pending import WAIT_SLICE_S, PendingRequest, should_stop_waiting
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.requests import parse_reply

ResultT = TypeVar("ResultT")

_CANCEL_TIMEOUT_S = 5.0
_RECONNECT_S = 0.1
_MAX_ENTRIES = 100


class AsyncReplyReader:
    """Reads the replies to the pending requests of one event loop."""

    def __init__(self, bus: BusRuntime) -> None:
        self.key = bus.stores.requests.new_reply_list()
        self._bus = bus
        self._client = bus.connect_async()
        self._pending: dict[str, asyncio.Future[str | None]] = {}
        # How many the next round trip removes. After a lost connection it is not known whether that was done.
        self._entries_read = 0
        self._reader: asyncio.Task[None] | None = None
        self._lifetime = self._run_until_loop_closes()

    async def open(self) -> None:
        """Register for closing when the event loop ends."""
        await anext(self._lifetime)

    async def send_and_wait(self, pending: PendingRequest, send: Callable[[], None]) -> str | None:
        """Send a request and wait for its reply as JSON text; None if this process is stopping.

        Raises RequestTimedOut, and the errors of `send`.
        """
        if pending.stored_id in self._pending:
            raise duplicate_request(pending.event.content.request_type, pending.request_id)
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._pending[pending.stored_id] = future
        sending = threads.submit(send)
        try:
            await asyncio.wrap_future(sending)
            self._start_reading()
            return await self._wait_for_reply(pending, future)
        except asyncio.CancelledError:
            # After the send, because the send registers the request; in a thread, because the loop may be ending.
            sending.add_done_callback(lambda _: threads.submit(partial(self._forget, pending)))
            raise
        finally:
            self._pending.pop(pending.stored_id, None)

    async def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a blocking function in a thread."""
        return await asyncio.wrap_future(threads.submit(function))

    async def _wait_for_reply(self, pending: PendingRequest, future: asyncio.Future[str | None]) -> str | None:
        await asyncio.wait({future}, timeout=max(0.0, pending.ends_at - time.monotonic()))
        if not future.done() and await self.call(lambda: self._forget(pending)):
            raise pending.build_timeout_error()
        # The reply is here, or it was published just before the deadline and is about to arrive.
        await asyncio.wait({future}, timeout=_CANCEL_TIMEOUT_S)
        if not future.done():
            raise pending.build_timeout_error()
        return future.result()

    def _forget(self, pending: PendingRequest) -> bool:
        """Cancel a request; return False if its reply has arrived. Without the store, it expires by itself."""
        try:
            return self._bus.stores.requests.forget(pending.stored_id, pending.token)
        except RedisError as error:
            failed = OperationFailed(operation="request.cancel_failed", exception=error, subject=pending.request_id)
            self._bus.instrumentation.emit(failed)
            return True

    def _start_reading(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        while self._pending:
            if await self.call(lambda: should_stop_waiting(self._bus)):
                self._resolve_futures(*((request_id, None) for request_id in self._pending))
                return
            try:
                entries = await self._read_entries()
            except (RedisConnectionError, RedisTimeoutError):
                # Replies stay in the list, and requests stay pending until their deadline.
                await asyncio.sleep(_RECONNECT_S)
                continue
            self._resolve_futures(*map(parse_reply, entries))

    async def _read_entries(self) -> list[str]:
        """Wait for entries of the list, up to WAIT_SLICE_S, and read many in one round trip.

        They stay in the list until the next round trip removes them: a connection that is lost with the answer loses
        no reply. Those that are read again are of no pending request.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            if self._entries_read:
                pipe.ltrim(self.key, self._entries_read, -1)
            # Moves the first entry to its own place, as soon as there is one.
            pipe.blmove(self.key, self.key, WAIT_SLICE_S, "LEFT", "LEFT")  # type: ignore[arg-type]  # takes fractions, too
            pipe.lrange(self.key, 0, _MAX_ENTRIES - 1)
            self._entries_read = 0
            entries: list[str] = (await pipe.execute())[-1]
        self._entries_read = len(entries)
        return entries

    def _resolve_futures(self, *replies: tuple[str, str | None]) -> None:
        for request_id, text in replies:
            future = self._pending.pop(request_id, None)
            if future is not None and not future.done():
                future.set_result(text)

    async def _run_until_loop_closes(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            # asyncio closes asynchronous generators before it closes a loop; it has no other hook for a loop's end.
            self._bus.resource(_reply_readers).pop(asyncio.get_running_loop(), None)
            await self._client.aclose()


def _reply_readers(_: BusRuntime) -> dict[asyncio.AbstractEventLoop, AsyncReplyReader]:
    return {}


async def current_reply_reader(bus: BusRuntime) -> AsyncReplyReader:
    """Return the reply reader of the running event loop, one per bus."""
    readers, loop = bus.resource(_reply_readers), asyncio.get_running_loop()
    if loop not in readers:
        reader = readers[loop] = AsyncReplyReader(bus)
        await reader.open()
    return readers[loop]
