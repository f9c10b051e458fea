"""Drafts: what a handler writes bit by bit, for readers along the way (reading.py).

    async with context.draft() as draft:
        await draft.run(write(draft))          # where `write` awaits words, and hands each to draft.say(…)

What is said never waits for Redis: it is put into the stream's draft a few times a second, all of it so far at once.
The end of the block is the end of the draft: failed where an error comes out of it, interrupted where `run` was, else
finished.

The subscription's `on_busy` says what becomes of a draft when the user says more, in another flow of the stream:

    None          nothing: the answers of a stream are written side by side
    "enqueue"     they are written one after the other: the subscription is ordered by stream
    "reject"      while one is written, entering the block of another raises StreamBusy
    "interrupt"   what `run` runs is cancelled, about 0.2 s after the newer message was published, whoever published it
                  and however many events wait in the agent's queue

One run of a delivery writes at a time: where another has begun, `run` and the end of the block raise StreamSuperseded.
What a shadow says goes nowhere.
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
from petiole.tasks.stores.history import RecordedEvent
from petiole.tasks.stores.response_streams import StreamEnd

if TYPE_CHECKING:
    from petiole.tasks.handling.current import CurrentDelivery

USER_MESSAGE_EVENT_TYPE = "input.message.received"

INTERRUPT_POLL_S = 0.1
"""How often newer messages are looked for while nothing is said."""

FLUSH_INTERVAL_S = 0.05
"""What is said within so long of the last writing is written together."""


@dataclass(slots=True)
class ResponseStream:
    """One run's text as it grows, under the id of the event at hand. Raises StreamBusy when it is entered."""

    context: CurrentDelivery
    text: str = ""
    is_interrupted: bool = False
    _attempt: int = 0
    _token: str = field(default_factory=lambda: uuid4().hex)
    _written_length: int = 0
    _last_seen_entry: str = ""
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _has_text: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        """Begin."""
        await asyncio.to_thread(self._begin, rejects=self.context.subscription.on_busy == "reject")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left, and the end. Raises StreamSuperseded where nothing else was raised."""
        end: StreamEnd = "failed" if error else "interrupted" if self.is_interrupted else "finished"
        try:
            await asyncio.to_thread(self._write, end)
        except StreamSuperseded:
            if error is None:
                raise

    def write(self, text: str) -> None:
        """Add to the text."""
        self.text += text
        self._has_text.set()

    async def run(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Run what writes to its end, and tell whether it came there: where it is interrupted, it is cancelled.

        It has ended either way. Raises what it raises; StreamSuperseded.
        """
        if await asyncio.to_thread(self._is_outdated):
            coroutine.close()
            self.is_interrupted = True
            return False
        work, watch = asyncio.create_task(coroutine), asyncio.create_task(self._keep_alive())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A handler's time limit comes out of the wait as well: neither task outlives this call.
            for task in (watch, work):
                await _cancel_and_wait(task)
        if not watch.cancelled():
            watch.result()
            self.is_interrupted = work.cancelled()
        if not self.is_interrupted:
            work.result()
        return not self.is_interrupted

    async def _keep_alive(self) -> None:
        """Write what is said, vouch for the run, and look for newer messages; returns where there is one."""
        while True:
            self._has_text.clear()
            await asyncio.to_thread(self._write)
            if await asyncio.to_thread(self._is_outdated):
                return
            # Not wait_for: on Python 3.11 it may keep a cancellation for itself.
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERRUPT_POLL_S):
                    await self._has_text.wait()
            await asyncio.sleep(FLUSH_INTERVAL_S if self._written_length else 0)  # the first words go out at once

    def _begin(self, *, rejects: bool = False) -> None:
        event, bus = self.context.event, self.context.bus
        if self.context.subscription.shadow:
            return
        state, fact = bus.stores.response_streams.begin(
            event.stream_id,
            event.event_id,
            correlation_id=event.correlation_id,
            token=self._token,
            rejects=rejects,
        )
        if state == "busy":
            raise StreamBusy(event.stream_id, fact)
        self._attempt, self._written_length = int(fact), 0

    def _write(self, end: StreamEnd | None = None) -> None:
        """Write what was not written yet. Raises StreamSuperseded."""
        if self.context.subscription.shadow:
            return
        # A thread whose coroutine was cancelled writes on: what it writes, the next one is not to write again.
        with self._writing:
            state = self._write_rest(end)
            if state == "abandoned":
                # This process stood still for longer than the lease, and nobody took its place: it begins anew.
                self._begin()
                state = self._write_rest(end)
        if state == "superseded":
            raise StreamSuperseded(self.context.event.event_id, self._attempt)

    def _write_rest(self, end: StreamEnd | None) -> str:
        event, text = self.context.event, self.text
        drafts, rest = self.context.bus.stores.response_streams, text[self._written_length :]
        state = drafts.write(event.stream_id, event.event_id, token=self._token, text=rest, end=end)
        self._written_length = len(text)
        return state

    def _is_outdated(self) -> bool:
        """Tell whether a user began another flow in the stream after this one."""
        event, history = self.context.event, self.context.bus.stores.history
        if self.context.subscription.on_busy != "interrupt" or self.context.is_replay:
            return False
        if not self._last_seen_entry:
            self._last_seen_entry = history.first_entry_of_flow(event.correlation_id) or history.last_entry_id()
        newer = history.read_stream_after(event.stream_id, self._last_seen_entry)
        if newer:
            self._last_seen_entry = newer[-1].entry_id
        return any(_is_users_message(each, excluded_flow=event.correlation_id) for each in newer)


def _is_users_message(recorded: RecordedEvent, *, excluded_flow: str) -> bool:
    return recorded.topic == USER_MESSAGE_EVENT_TYPE and recorded.attributes["correlation_id"] != excluded_flow


async def _cancel_and_wait(task: asyncio.Task[None]) -> None:
    """Cancel a task that is not done, and wait for its end; what it ended with stays with it."""
    task.cancel()
    await asyncio.wait({task})
