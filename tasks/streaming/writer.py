"""Write a response in chunks while readers follow it (reader.py).

    async with context.stream_response() as stream:
        await stream.run(generate(stream))     # `generate` awaits text and calls stream.write(text)

`write` never waits for Redis: the text is flushed to the stream a few times a second. At the end of the block the
response is marked failed if the block raised, interrupted if `run` was, otherwise finished.

The subscription's `on_busy` decides what happens if the user sends a message in another flow of the stream:

    None          nothing: several responses of a stream are written at the same time
    "enqueue"     they are written one after the other, because the subscription is ordered by stream
    "reject"      while one is written, entering the block of another raises StreamBusy
    "interrupt"   the coroutine of `run` is cancelled about 0.2 s after the newer message was published, independent of
                  the length of the agent's queue; or after the user began to speak (`stream.speech.started`)

With `stops_at_speech`, speech of the user that begins meanwhile cancels it, whatever `on_busy` is.

Only one attempt of a delivery writes at a time: if a newer attempt has started, `run` and the end of the block raise
StreamSuperseded. A shadow handler writes nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from petiole.events.errors import StreamBusy, StreamSuperseded
from petiole.tasks.handling.cancellation import ending_itself, running_handler
from petiole.tasks.stores.response_streams import StreamEnd

if TYPE_CHECKING:
    from petiole.tasks.handling.current import CurrentDelivery

SPEECH_EVENT_TYPES = frozenset({"stream.speech.started"})
INTERRUPTING_EVENT_TYPES = SPEECH_EVENT_TYPES | {"input.message.received"}

INTERRUPT_POLL_S = 0.1
"""How often `run` checks for newer messages while nothing is written."""

FLUSH_INTERVAL_S = 0.05
"""The shortest time between two flushes."""


@dataclass(slots=True)
class ResponseStream:
    """The response of one attempt, with the id of the current event. Entering it may raise StreamBusy."""

    context: CurrentDelivery
    stops_at_speech: bool = False
    text: str = ""
    is_interrupted: bool = False
    _attempt: int = 0
    _token: str = field(default_factory=lambda: uuid4().hex)
    _written_length: int = 0
    _last_seen_entry: str = ""
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _has_text: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        """Start the response. Raises StreamBusy."""
        await asyncio.to_thread(self._begin, rejects=self.context.subscription.on_busy == "reject")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush the remaining text and mark the end. Raises StreamSuperseded unless the block raised."""
        end: StreamEnd = "failed" if error else "interrupted" if self.is_interrupted else "finished"
        try:
            await asyncio.to_thread(self._write, end)
        except StreamSuperseded:
            if error is None:
                raise

    def write(self, text: str) -> None:
        """Append text; returns at once."""
        self.text += text
        self._has_text.set()

    async def run(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Run a coroutine that writes; returns False if a newer message or `cancel_flow` interrupted and cancelled it.

        The coroutine has ended when this returns. Raises StreamSuperseded, and the coroutine's own errors.
        """
        if _is_cancelled() or await asyncio.to_thread(self._is_outdated):
            coroutine.close()
            self.is_interrupted = True
            return False
        work, watch = asyncio.create_task(coroutine), asyncio.create_task(self._keep_alive())
        try:
            with ending_itself():
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The handler's time limit cancels the wait, too. Neither task may outlive this call.
            for task in (watch, work):
                await _cancel_and_wait(task)
        if not watch.cancelled():
            watch.result()
            self.is_interrupted = work.cancelled()
        if not self.is_interrupted:
            work.result()
        return not self.is_interrupted

    async def _keep_alive(self) -> None:
        """Flush text, renew the lease, and check for newer messages and a cancellation; returns when there is one."""
        while True:
            self._has_text.clear()
            await asyncio.to_thread(self._write)
            if _is_cancelled() or await asyncio.to_thread(self._is_outdated):
                return
            # Not wait_for, because on Python 3.11 it may swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERRUPT_POLL_S):
                    await self._has_text.wait()
            await asyncio.sleep(FLUSH_INTERVAL_S if self._written_length else 0)  # the first text is flushed at once

    def _begin(self, *, rejects: bool = False) -> None:
        event, bus = self.context.event, self.context.bus
        if self.context.subscription.shadow:
            return
        state, detail = bus.stores.response_streams.begin(
            event.stream_id,
            event.event_id,
            correlation_id=event.correlation_id,
            token=self._token,
            rejects=rejects,
        )
        if state == "busy":
            raise StreamBusy(event.stream_id, detail)
        self._attempt, self._written_length = int(detail), 0

    def _write(self, end: StreamEnd | None = None) -> None:
        """Flush the text that was not flushed yet. Raises StreamSuperseded."""
        if self.context.subscription.shadow:
            return
        # The thread of a cancelled coroutine continues, so the lock prevents that two threads flush the same text.
        with self._writing:
            state = self._write_rest(end)
            if state == "abandoned":
                # This process was stalled for longer than the lease, and no other attempt started: start again.
                self._begin()
                state = self._write_rest(end)
        if state == "superseded":
            raise StreamSuperseded(self.context.event.event_id, self._attempt)

    def _write_rest(self, end: StreamEnd | None) -> str:
        event, text = self.context.event, self.text
        streams, rest = self.context.bus.stores.response_streams, text[self._written_length :]
        state = streams.write(event.stream_id, event.event_id, token=self._token, text=rest, end=end)
        self._written_length = len(text)
        return state

    def _is_outdated(self) -> bool:
        """Return whether the user sent a message or spoke in another flow of the stream after this one."""
        event, history = self.context.event, self.context.bus.stores.history
        event_types = self._interrupting_event_types()
        if not event_types:
            return False
        if not self._last_seen_entry:
            # Speech counts from here on, so that a cough before it leaves no question without an answer.
            counts_from_message = self.context.subscription.on_busy == "interrupt"
            first_entry = history.first_entry_of_flow(event.correlation_id) if counts_from_message else None
            self._last_seen_entry = first_entry or history.last_entry_id()
        newer = history.read_stream_after(event.stream_id, self._last_seen_entry)
        if newer:
            self._last_seen_entry = newer[-1].entry_id
        return any(
            recorded.topic in event_types and recorded.attributes["correlation_id"] != event.correlation_id
            for recorded in newer
        )

    def _interrupting_event_types(self) -> frozenset[str]:
        if self.context.is_replay:
            return frozenset()
        if self.context.subscription.on_busy == "interrupt":
            return INTERRUPTING_EVENT_TYPES
        return SPEECH_EVENT_TYPES if self.stops_at_speech else frozenset()


def _is_cancelled() -> bool:
    running = running_handler()
    return running is not None and running.is_cancelled


async def _cancel_and_wait(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end, without raising its error."""
    task.cancel()
    await asyncio.wait({task})
