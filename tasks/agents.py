"""Agents: subscribers with a name, a queue and handlers.

    memory = Agent("memory")

    @memory.on("input.*", "tools.execution.completed")
    def keep(event: Event) -> None: ...

    @memory.on("message.order.*", where={"content.parameters.amount": {"ge": 100}}, priority=9)
    def look_closer(event: Event) -> None: ...

    @memory.answers("recall")                                       answers requests (requests/)
    def recall(query: str) -> list[str]: ...

    @memory.gather("message.price", "message.stock", timeout=2.0)   waits for several events (gathering.py)
    def both(gathered: Gathered) -> Event: ...

The decorated function stays a plain function. A worker makes a Celery task `memory.keep` of it; a publisher needs to
know neither.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from petiole.events.conditions import Where, check_where
from petiole.events.errors import (
    UsageError,
    duplicate_subscription,
    invalid_name,
    invalid_option,
    invalid_pattern,
    invalid_subscription,
)
from petiole.events.event import MOST_URGENT, Category
from petiole.events.ids import AGENT_NAME
from petiole.events.responses import REQUESTED
from petiole.events.responses import conditions as conditions_of
from petiole.events.subscriptions import FUNCTION_NAME, OnBusy, Overflow, Subscription
from petiole.events.topics import check_pattern
from petiole.events.validation import invalid_options
from petiole.tasks.handling.handler import DEFAULT_RETRY, Handler, HandlerFunction
from petiole.tasks.patterns.gather import CLOSED, Part, caller, collector, gathering
from petiole.tasks.requests.responder import answerer
from petiole.tasks.routing import traffic_split
from petiole.tasks.settlement.retry_policy import RetryPolicy

AHandler = TypeVar("AHandler", bound=HandlerFunction)

ONCE = RetryPolicy(max_attempts=1)
MIN_BATCH = 2
MIN_PARTS = 2
MAX_BATCH = 1000
MAX_TIMEOUT_S = 7 * 24 * 3600.0


class Agent:
    """A subscriber: one name, one queue, scaled and stopped on its own.

    `capacity` bounds how many deliveries wait in its queue; at a full one, `overflow` has the publisher wait for room
    (block), be refused (reject), or the oldest delivery give way (drop_oldest). Raises UsageError (invalid_name),
    UsageError.
    """

    def __init__(self, name: str, *, capacity: int | None = None, overflow: Overflow = "block") -> None:
        if not re.match(AGENT_NAME, name):
            raise invalid_name("an agent", name)
        if capacity is not None and capacity < 1:
            raise UsageError(f"the capacity of {name!r} is {capacity}; give at least 1, or none")
        self.capacity = capacity
        self.overflow: Overflow = overflow
        self.name = name
        self._handlers: dict[str, Handler] = {}
        self._to_include: list[Callable[[], object]] = []
        self.starts: list[Callable[[], object]] = []
        self.stops: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The agent's handlers by subscription name."""
        while self._to_include:
            self._to_include[0]()
            del self._to_include[0]
        return MappingProxyType(self._handlers)

    @property
    def subscriptions(self) -> list[Subscription]:
        """What the agent hears.

        Raises UsageError (invalid_subscription) where a split leaves streams without a variant.
        """
        found = [handler.subscription for handler in self.handlers.values()]
        _check_splits_are_whole(found)
        return found

    def on(
        self,
        *patterns: str,
        where: Where | None = None,
        ordered: bool | str = False,
        priority: int | None = None,
        expires: timedelta | float | None = None,
        split: str | None = None,
        variant: str | None = None,
        weight: float | None = None,
        shadow: bool = False,
        timeout: float | timedelta | None = None,
        batch: int | None = None,
        on_busy: OnBusy | None = None,
        retry: RetryPolicy | None = None,
    ) -> Callable[[AHandler], AHandler]:
        """Subscribe a function to patterns; it takes the event, and the context if it has a second parameter.

        It returns nothing, an event, or several events, also as a generator; they are published once it has
        succeeded. It may be `async`.

        where: conditions on the event's JSON (`events/conditions.py`), decided before anything is sent.
        ordered: events of one stream are handled one at a time, in the order of their publication, while other streams
            run beside it; a path such as "content.parameters.account" orders by that field instead.
        priority: 0 to 9, 9 first; of these deliveries, instead of the event's.
        expires: how long after the event's timestamp handling may begin; seconds, or a timedelta.
        split: of the agent's handlers that name this split, one variant gets an event, always the same for a stream.
            `variant` is this one's name, by default the function's; `weight` its percentage of the streams, without
            which it shares the rest.
        shadow: it gets every event, beside whoever else does, and nothing of what it says is published.
        timeout: ends a handler after so many seconds, as a failed attempt; works in every pool, with the limits that
            tasks/handling/time_limits.py tells.
        retry: how often a delivery is tried whose handler fails, and how long it waits in between; by default three
            times, at 0, 1 and 3 s. `RetryPolicy(max_attempts=1)` tries once.
        on_busy: of a handler that writes a draft (`context.draft()`), what becomes of it when the user says more in its
            stream: "interrupt", "enqueue" or "reject" (tasks/streaming/writer.py); by default nothing.
        batch: lets a worker hand over up to so many deliveries to a slot at once, 2 to 1000; for short handlers.

        Raises: UsageError (invalid_pattern, invalid_filter, invalid_name, invalid_subscription, invalid_option,
        duplicate_subscription), UsageError.
        """
        ordered = ordered or on_busy == "enqueue"
        if ordered and self.overflow == "drop_oldest":
            raise UsageError(f"an ordered subscription of {self.name!r} cannot drop its oldest: choose block or reject")
        for pattern in patterns or [""]:
            check_pattern(pattern)
        options = {
            "patterns": patterns,
            "ordered_by": "stream_id" if ordered is True else ordered or None,
            "capacity": self.capacity,
            "overflow": self.overflow,
            "where": check_where(where or {}),
            "priority": priority,
            "expires": expires,
            "split": split,
            "variant": variant,
            "weight": weight,
            "shadow": shadow,
            "on_busy": on_busy,
        }
        timeout_s = _checked_timeout(timeout)
        size = _checked_batch(batch)

        def subscribe(function: AHandler) -> AHandler:
            self._add(function, options, timeout_s=timeout_s, batch=size, retry=retry or DEFAULT_RETRY)
            return function

        return subscribe

    def on_error(self, *patterns: str, **options: Any) -> Callable[[AHandler], AHandler]:
        """Subscribe a function to the error channel: `error.*`, or patterns below `error`; options and errors as `on`.

        Its deliveries go first in the agent's queue. What fails in it is logged and buried, and tells nobody: an error
        about an error would never end.
        """
        for pattern in patterns:
            if pattern.split(".")[0] != Category.ERROR:
                raise invalid_pattern(pattern, "the error channel's topics begin with 'error.'")
        return self.on(*(patterns or ("error.*",)), **({"priority": MOST_URGENT} | options))

    def on_include(self, function: Callable[[], object]) -> Callable[[], object]:
        """Have a function run once, before the agent is first included in a bus: it subscribes with options that are
        settings, which are not read while a module is imported.
        """
        self._to_include.append(function)
        return function

    def on_start(self, function: Callable[[], object]) -> Callable[[], object]:
        """Have a function run in every process that runs handlers of this agent, before the first: workers/hooks.py."""
        self.starts.append(function)
        return function

    def on_stop(self, function: Callable[[], object]) -> Callable[[], object]:
        """Have a function run in each of these processes, once the last handler has ended."""
        self.stops.append(function)
        return function

    def answers(
        self,
        request_type: str,
        *,
        priority: int | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy = ONCE,
        read_only: bool = True,
    ) -> Callable[[AHandler], AHandler]:
        """Answer requests of a type with what a function returns; what it takes is told in tasks/requests/responder.py.

        One that fails has answered with a failure: it is run again only where `retry` says so. `read_only=False` lets
        it set the agent's state. `priority` and `timeout` are as for `on`. Raises as `on`.
        """
        timeout_s = _checked_timeout(timeout)
        conditions = conditions_of(self.name, request_type)
        options = self._options((REQUESTED,)) | {"where": check_where(conditions), "priority": priority}

        def subscribe(function: AHandler) -> AHandler:
            for each in self._handlers.values():
                if dict(each.subscription.where) == conditions:
                    raise duplicate_subscription(each.subscription.name)
            self._add(function, options, timeout_s=timeout_s, retry=retry, act=answerer(function, read_only=read_only))
            return function

        return subscribe

    def gather(
        self,
        *parts: Part,
        timeout: float | timedelta,
        by: str = "correlation_id",
        retry: RetryPolicy | None = None,
    ) -> Callable[[AHandler], AHandler]:
        """Call a function once for each key with all of several events, in whatever order they come, each once.

        A part is a pattern, or a tuple of alternatives. The function takes the Gathered, and the context if it has a
        second parameter. `timeout` (s) after the first part it is called with what has come (`partial`). `by` is the
        dotted path of the field that parts agree on. Raises as `on`.
        """
        timeout_s = _checked_timeout(timeout)
        if timeout_s is None or len(parts) < MIN_PARTS:
            raise invalid_option("gather", f"{parts!r}, timeout={timeout!r}", "name two or more parts, and a timeout")

        def subscribe(function: AHandler) -> AHandler:
            name = f"{self.name}.{function.__name__}"
            what = gathering(name, parts, by, timedelta(seconds=timeout_s))
            for pattern in what.patterns:
                check_pattern(pattern)
            collect = collector(what, f"{function.__name__}_parts")
            self._add(collect, self._options(what.patterns), retry=retry or DEFAULT_RETRY)
            options = self._options((CLOSED,)) | {"where": check_where({"content.subscription": name})}
            self._add(function, options, retry=retry or DEFAULT_RETRY, act=caller(what, function))
            return function

        return subscribe

    def _options(self, patterns: tuple[str, ...]) -> dict[str, object]:
        named = dict.fromkeys(("ordered_by", "priority", "expires", "split", "variant", "weight", "on_busy"))
        return named | {
            "patterns": patterns,
            "capacity": self.capacity,
            "overflow": self.overflow,
            "where": {},
            "shadow": False,
        }

    def _add(
        self,
        function: HandlerFunction,
        options: Mapping[str, object],
        *,
        timeout_s: float | None = None,
        batch: int | None = None,
        retry: RetryPolicy,
        act: HandlerFunction | None = None,
    ) -> None:
        """Keep a handler: the function, or what acts on its behalf, which takes the context."""
        if not re.match(FUNCTION_NAME, function.__name__):
            raise invalid_name("a handler", function.__name__)
        subscription = _subscription(self.name, function.__name__, options)
        if subscription.name in self._handlers:
            raise duplicate_subscription(subscription.name)
        known = [handler.subscription for handler in self._handlers.values()]
        _check_weights([*known, subscription], of=subscription)
        takes_context = act is not None or len(inspect.signature(function).parameters) > 1
        self._handlers[subscription.name] = Handler(
            subscription, act or function, takes_context, timeout_s=timeout_s, batch=batch, retry=retry
        )


def _subscription(agent: str, function: str, options: Mapping[str, object]) -> Subscription:
    named = {"agent": agent, "function": function}
    if options["split"] is not None and options["variant"] is None:
        named["variant"] = function
    try:
        return Subscription.model_validate({**options, **named})
    except ValidationError as error:
        raise invalid_options(f"{agent}.{function}", error) from error


def _check_weights(subscriptions: Sequence[Subscription], *, of: Subscription) -> None:
    """Refuse a weight that contradicts what was said of its split before."""
    members = [each for each in subscriptions if each.split == of.split and each.split is not None]
    said = {each.weight for each in members if each.variant == of.variant and each.weight is not None}
    if len(said) > 1:
        reason = f"variant {of.variant!r} has the weights {_listed(said)}; give it one, at one of its handlers"
        raise invalid_subscription(of.name, "weight", reason)
    taken = traffic_split.weighted_buckets(traffic_split.weights(members))
    if taken > traffic_split.BUCKETS:
        reason = f"the weights of split {of.split!r} are {_percent(taken)} in all, and have to stay within 100"
        raise invalid_subscription(of.name, "weight", reason)


def _check_splits_are_whole(subscriptions: Sequence[Subscription]) -> None:
    for each in subscriptions:
        weights = traffic_split.weights(other for other in subscriptions if other.split == each.split)
        taken = traffic_split.weighted_buckets(weights)
        if weights and None not in weights.values() and taken < traffic_split.BUCKETS:
            reason = (
                f"the weights of split {each.split!r} are {_percent(taken)} in all, and nobody takes the rest; "
                "leave the weight of one variant out"
            )
            raise invalid_subscription(each.name, "weight", reason)


def _percent(buckets: int) -> str:
    return f"{buckets / traffic_split.PER_PERCENT:g}"


def _listed(weights: Iterable[float]) -> str:
    return " and ".join(f"{weight:g}" for weight in sorted(weights))


def _checked_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= MAX_TIMEOUT_S:
        return float(seconds)
    raise invalid_option("timeout", repr(timeout), "give seconds above 0, at most a week's, a timedelta, or None")


def _checked_batch(batch: object) -> int | None:
    if batch is None or (isinstance(batch, int) and not isinstance(batch, bool) and MIN_BATCH <= batch <= MAX_BATCH):
        return batch
    raise invalid_option("batch", repr(batch), f"give a whole number from {MIN_BATCH} to {MAX_BATCH}, or None")
