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
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from events.errors import DuplicateSubscription, InvalidName, Misuse
from events.ids import AGENT_NAME
from events.subscriptions import FUNCTION_NAME, Overflow, Subscription
from events.topics import check_pattern

# Handlers annotate the event classes they take, which no single callable type can say.
HandlerFunction: TypeAlias = Callable[..., Any]
AHandler = TypeVar("AHandler", bound=HandlerFunction)


@dataclass(frozen=True, slots=True)
class Handler:
    """A subscription with the function that acts on its events."""

    subscription: Subscription
    function: HandlerFunction
    takes_context: bool


class Agent:
    """A subscriber: one name, one queue, scaled and stopped on its own.

    `capacity` bounds how many deliveries wait in its queue; at a full one, `overflow` has the publisher wait for room
    (block), be refused (reject), or the oldest delivery give way (drop_oldest). Raises InvalidName, Misuse.
    """

    def __init__(self, name: str, *, capacity: int | None = None, overflow: Overflow = "block") -> None:
        if not re.match(AGENT_NAME, name):
            raise InvalidName("an agent", name)
        if capacity is not None and capacity < 1:
            raise Misuse(f"the capacity of {name!r} is {capacity}; give at least 1, or none")
        self.capacity = capacity
        self.overflow: Overflow = overflow
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

    def on(self, *patterns: str, ordered: bool | str = False) -> Callable[[AHandler], AHandler]:
        """Subscribe a function to patterns; it takes the event, and the context if it has a second parameter.

        `ordered` has events of one stream handled one at a time, in the order of their publication, while other streams
        run beside it; a path such as "content.parameters.account" orders by that field instead.

        It returns nothing, an event, or several events, also as a generator; they are published once it has
        succeeded. Raises: InvalidPattern, InvalidName, DuplicateSubscription, Misuse.
        """
        if ordered and self.overflow == "drop_oldest":
            raise Misuse(f"an ordered subscription of {self.name!r} cannot drop its oldest: choose block or reject")
        ordered_by = "stream_id" if ordered is True else ordered or None
        for pattern in patterns or [""]:
            check_pattern(pattern)

        def subscribe(function: AHandler) -> AHandler:
            self._add(function, patterns, ordered_by)
            return function

        return subscribe

    def _add(self, function: HandlerFunction, patterns: Iterable[str], ordered_by: str | None) -> None:
        if not re.match(FUNCTION_NAME, function.__name__):
            raise InvalidName("a handler", function.__name__)
        subscription = Subscription(
            agent=self.name,
            function=function.__name__,
            patterns=tuple(patterns),
            ordered_by=ordered_by,
            capacity=self.capacity,
            overflow=self.overflow,
        )
        if subscription.name in self._handlers:
            raise DuplicateSubscription(subscription.name)
        takes_context = len(inspect.signature(function).parameters) > 1
        self._handlers[subscription.name] = Handler(subscription, function, takes_context)
