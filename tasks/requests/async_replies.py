"""Inboxes: where the answers to an asyncio loop's requests come in, all over one connection.

    request.aio(...)   ─ sent by one of a few threads ─▶  responder
           │                                                 │
        future  ◀─ one task reads ◀─ one list in Redis ◀─────┘

Waiting takes no thread, however many wait. Sending does, for about a millisecond: publishing may have to wait for room
in a queue, and a loop must not. The task reads only while somebody waits. The loop's end closes the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.errors import duplicate_request
from petiole.tasks.publishing import threads
from petiole.tasks.requests.pending import SLICE_S, Asked, is_let_go
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.requests import answer_in

Result = TypeVar("Result")

_LAST_MOMENT_S = 5.0
_RECONNECT_S = 0.1


class Inbox:
    """The answers that one loop waits for."""

    def __init__(self, bus: BusRuntime) -> None:
        self.key = bus.stores.requests.new_inbox()
        self._bus = bus
        self._client = bus.connect_async()
        self._awaited: dict[str, asyncio.Future[str | None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._life = self._living()

    async def open(self) -> None:
        """Begin to live: until the loop ends."""
        await anext(self._life)

    async def answer(self, asked: Asked, send: Callable[[], None]) -> str | None:
        """Send a request and wait for its answer, as JSON text; None where this process ends. Raises as `send`.

        Raises: RequestTimedOut.
        """
        if asked.request_id in self._awaited:
            raise duplicate_request(asked.event.content.request_type, asked.request_id)
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._awaited[asked.request_id] = future
        sending = threads.submit(send)
        try:
            await asyncio.wrap_future(sending)
            self._read_on()
            return await self._in_time(asked, future)
        except asyncio.CancelledError:
            # Not before it was sent, or it would be registered afterwards; and without the loop, which may be ending.
            sending.add_done_callback(lambda _: threads.submit(partial(self._forget, asked)))
            raise
        finally:
            self._awaited.pop(asked.request_id, None)

    async def call(self, act: Callable[[], Result]) -> Result:
        """Call a function that may have to fetch something."""
        return await asyncio.wrap_future(threads.submit(act))

    async def _in_time(self, asked: Asked, future: asyncio.Future[str | None]) -> str | None:
        await asyncio.wait({future}, timeout=max(0.0, asked.ends_at - time.monotonic()))
        if not future.done() and await self.call(lambda: self._forget(asked)):
            raise asked.timed_out()
        # Either it is there, or it was answered in the last moment and is on its way.
        await asyncio.wait({future}, timeout=_LAST_MOMENT_S)
        if not future.done():
            raise asked.timed_out()
        return future.result()

    def _forget(self, asked: Asked) -> bool:
        return self._bus.stores.requests.forget(asked.request_id, asked.token)

    def _read_on(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        while self._awaited:
            if await self.call(lambda: is_let_go(self._bus)):
                self._hand_over(*((request_id, None) for request_id in self._awaited))
                return
            try:
                found: Any = await self._client.blpop([self.key], timeout=SLICE_S)
            except (RedisConnectionError, RedisTimeoutError):
                # Answers stay where they are, and who waits does so until the deadline.
                await asyncio.sleep(_RECONNECT_S)
                continue
            if found:
                self._hand_over(answer_in(found[1]))

    def _hand_over(self, *answers: tuple[str, str | None]) -> None:
        for request_id, text in answers:
            future = self._awaited.pop(request_id, None)
            if future is not None and not future.done():
                future.set_result(text)

    async def _living(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            # asyncio ends asynchronous generators before it closes a loop, and tells nobody else.
            self._bus.resource(_inboxes).pop(asyncio.get_running_loop(), None)
            await self._client.aclose()


def _inboxes(_: BusRuntime) -> dict[asyncio.AbstractEventLoop, Inbox]:
    return {}


async def inbox_of_this_loop(bus: BusRuntime) -> Inbox:
    """Return the inbox of the loop that runs, one for each bus."""
    inboxes, loop = bus.resource(_inboxes), asyncio.get_running_loop()
    if loop not in inboxes:
        inbox = inboxes[loop] = Inbox(bus)
        await inbox.open()
    return inboxes[loop]
