"""Faults: what goes wrong in a test, for the next deliveries of a subscription.

    harness.faults.fail("clerk.prepare", times=2)      its handler raises, before its function is called
    harness.faults.kill("clerk.prepare")               its process dies before the outcome is stored
    harness.faults.drop_before_ack("clerk.prepare")    the outcome is stored, and the acknowledgement is lost
    harness.faults.duplicate("clerk.prepare")          the broker delivers the message twice
    harness.faults.delay("clerk.prepare", 60)          the broker delivers the message so many seconds later

Each applies to the next `times` deliveries or attempts. Faults of one kind and subscription add up.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import wraps
from typing import Any
from uuid import uuid4

from celery.exceptions import Reject

from petiole.events.errors import UsageError
from petiole.tasks.consuming.in_process import InFlightMessages
from petiole.tasks.handling.handler import HandlerFunction


class InjectedFailure(Exception):  # noqa: N818 - it is what a test says, and not an error of ours
    """The error of `fail`, unless the test gives another."""


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A message that the broker delivers later; `due` is in s since 1970, by the harness's clock."""

    due: float
    queue: str
    message: Any


class Faults(InFlightMessages):
    """The faults of one harness."""

    def __init__(self, known: Callable[[], Collection[str]], now_s: Callable[[], float]) -> None:
        super().__init__()
        self._known = known
        self._now_s = now_s
        self._planned: Counter[tuple[str, str]] = Counter()
        self._errors: dict[str, Exception] = {}
        self._delays_s: dict[str, float] = {}
        self._held: list[HeldMessage] = []
        self._planning = threading.Lock()

    def fail(self, subscription: str, *, times: int = 1, error: Exception | None = None) -> None:
        """Let the next attempts raise this error, instead of calling the handler's function."""
        self._plan("fail", subscription, times)
        self._errors[subscription] = error or InjectedFailure(f"{subscription} fails in this test")

    def kill(self, subscription: str, *, times: int = 1) -> None:
        """Let the process of the next attempts die after the handler's function, before the outcome is stored.

        What the function did to the outside stays, and its events are lost. The delivery is handled again, and a crash
        is counted: a delivery with too many becomes a dead letter.
        """
        self._plan("kill", subscription, times)

    def drop_before_ack(self, subscription: str, *, times: int = 1) -> None:
        """Let the next deliveries be delivered again after their outcome was stored."""
        self._plan("drop_before_ack", subscription, times)

    def duplicate(self, subscription: str, *, times: int = 1) -> None:
        """Let the broker deliver the next messages twice."""
        self._plan("duplicate", subscription, times)

    def delay(self, subscription: str, seconds: float, *, times: int = 1) -> None:
        """Let the broker deliver the next messages so many seconds later; `advance` and waiting skip them."""
        self._plan("delay", subscription, times)
        self._delays_s[subscription] = seconds

    def due_times(self) -> list[float]:
        """List when held messages are due, in s since 1970."""
        return [held.due for held in self._held]

    def take_due(self) -> list[HeldMessage]:
        """Return the held messages that are due, and hold them no longer."""
        with self._planning:
            due = [held for held in self._held if held.due <= self._now_s()]
            self._held = [held for held in self._held if held not in due]
        return due

    def messages_to_put(self, queue: str, message: Any) -> Iterable[Any]:
        """Return the copies of a message that its queue gets now."""
        task = _task_of(message)
        if self._take("delay", task):
            self._held.append(HeldMessage(self._now_s() + self._delays_s[task], queue, message))
            return ()
        return (message, _copy_of(message)) if self._take("duplicate", task) else (message,)

    def loses_acknowledgement(self, message: Any) -> bool:
        """Return whether the acknowledgement of a message is lost."""
        return self._take("drop_before_ack", _task_of({"headers": getattr(message, "headers", {})}))

    def wrap(self, subscription: str, function: HandlerFunction) -> HandlerFunction:
        """Return a handler's function of the same kind, with the faults of its subscription."""
        return _wrap(function, lambda: self._begin(subscription), lambda: self._end(subscription))

    def _begin(self, subscription: str) -> None:
        if self._take("fail", subscription):
            raise self._errors[subscription]

    def _end(self, subscription: str) -> None:
        if self._take("kill", subscription):
            # Nothing is stored, and the message returns to its queue, as after the death of a process.
            raise Reject(f"{subscription}: its process died in this test", requeue=True)

    def _plan(self, kind: str, subscription: str, times: int) -> None:
        known = self._known()
        if subscription not in known:
            nearest = difflib.get_close_matches(subscription, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "add its agent first"
            raise UsageError(f"no subscription {subscription!r} in this harness; {hint}")
        if times < 1:
            raise UsageError(f"times is {times}; give at least 1")
        with self._planning:
            self._planned[kind, subscription] += times

    def _take(self, kind: str, subscription: str) -> bool:
        with self._planning:
            is_planned = self._planned[kind, subscription] > 0
            self._planned[kind, subscription] -= is_planned
        return is_planned


def _task_of(message: Any) -> str:
    return str(message.get("headers", {}).get("task", ""))


def _copy_of(message: Any) -> Any:
    copied = copy.deepcopy(message)
    copied["properties"]["delivery_tag"] = str(uuid4())
    return copied


def _wrap(function: HandlerFunction, begin: Callable[[], None], end: Callable[[], None]) -> HandlerFunction:
    if inspect.isasyncgenfunction(function):

        @wraps(function)
        async def generate_async(*arguments: Any) -> AsyncIterator[Any]:
            begin()
            async with aclosing(function(*arguments)) as values:
                async for value in values:
                    yield value
            end()

        return generate_async
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def call_async(*arguments: Any) -> Any:
            begin()
            returned = await function(*arguments)
            end()
            return returned

        return call_async
    if inspect.isgeneratorfunction(function):

        @wraps(function)
        def generate(*arguments: Any) -> Iterator[Any]:
            begin()
            yield from function(*arguments)
            end()

        return generate

    @wraps(function)
    def call(*arguments: Any) -> Any:
        begin()
        returned = function(*arguments)
        end()
        return returned

    return call
