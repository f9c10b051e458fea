"""Agents: subscribers with a name, a queue and handlers.

    memory = Agent("memory")

    @memory.on("input.*", "tools.execution.completed")
    def keep(event: Event) -> None: ...

The decorated function stays a plain function. A worker makes a Celery task `memory.keep` of it; a publisher needs to
know neither.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from events.errors import DuplicateSubscription, InvalidName, InvalidOption
from events.ids import AGENT_NAME
from events.subscriptions import FUNCTION_NAME, Subscription
from events.topics import check_pattern

# Handlers annotate the event classes they take, which no single callable type can say.
HandlerFunction: TypeAlias = Callable[..., Any]
AHandler = TypeVar("AHandler", bound=HandlerFunction)

MIN_BATCH = 2
MAX_BATCH = 1000
MAX_TIMEOUT_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Handler:
    """A subscription with the function that acts on its events."""

    subscription: Subscription
    function: HandlerFunction
    takes_context: bool
    timeout_s: float | None = None
    batch: int | None = None


class Agent:
    """A subscriber: one name, one queue, scaled and stopped on its own. Raises InvalidName."""

    def __init__(self, name: str) -> None:
        if not re.match(AGENT_NAME, name):
            raise InvalidName("an agent", name)
        self.name = name
        self._handlers: dict[str, Handler] = {}

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The agent's handlers by subscription name."""
        return MappingProxyType(self._handlers)

    @property
    def subscriptions(self) -> list[Subscription]:
        """What the agent hears."""
        return [handler.subscription for handler in self._handlers.values()]

    def on(
        self, *patterns: str, timeout: float | timedelta | None = None, batch: int | None = None
    ) -> Callable[[AHandler], AHandler]:
        """Subscribe a function to patterns; it takes the event, and the context if it has a second parameter.

        It returns nothing, an event, or several events, also as a generator; they are published once it has
        succeeded. It may be `async`.

        timeout: ends a handler after so many seconds, and makes its delivery a dead letter; works in every pool, with
            the limits that tasks/deadlines.py tells.
        batch: lets a worker hand over up to so many deliveries to a slot at once, 2 to 1000; for short handlers.

        Raises: InvalidPattern, InvalidName, InvalidOption, DuplicateSubscription.
        """
        for pattern in patterns or [""]:
            check_pattern(pattern)
        timeout_s = _checked_timeout(timeout)
        size = _checked_batch(batch)

        def subscribe(function: AHandler) -> AHandler:
            self._add(function, patterns, timeout_s=timeout_s, batch=size)
            return function

        return subscribe

    def _add(self, function: HandlerFunction, patterns: Iterable[str], **options: Any) -> None:
        if not re.match(FUNCTION_NAME, function.__name__):
            raise InvalidName("a handler", function.__name__)
        subscription = Subscription(agent=self.name, function=function.__name__, patterns=tuple(patterns))
        if subscription.name in self._handlers:
            raise DuplicateSubscription(subscription.name)
        takes_context = len(inspect.signature(function).parameters) > 1
        self._handlers[subscription.name] = Handler(subscription, function, takes_context, **options)


def _checked_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= MAX_TIMEOUT_S:
        return float(seconds)
    raise InvalidOption("timeout", repr(timeout), "give seconds above 0, at most a week's, a timedelta, or None")


def _checked_batch(batch: object) -> int | None:
    if batch is None or (isinstance(batch, int) and not isinstance(batch, bool) and MIN_BATCH <= batch <= MAX_BATCH):
        return batch
    raise InvalidOption("batch", repr(batch), f"give a whole number from {MIN_BATCH} to {MAX_BATCH}, or None")
