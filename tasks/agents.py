"""Agents: subscribers with a name, a queue and handlers.

    memory = Agent("memory")

    @memory.on("input.*", "tools.execution.completed")
    def keep(event: Event) -> None: ...

    @memory.on("message.order.*", where={"content.parameters.amount": {"ge": 100}}, priority=9)
    def look_closer(event: Event) -> None: ...

    @memory.answers("recall")                                       answers requests (requests/)
    def recall(query: str) -> list[str]: ...

    @memory.gather("message.price", "message.stock", timeout=2.0)   waits for several events (patterns/gather.py)
    def both(gathered: Gathered) -> Event: ...

The decorated function stays a plain function. A worker registers it as the Celery task `memory.keep`. Publishers import
neither the agent nor the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from petiole.events.arguments import check_argument, checks_arguments, instance_of
from petiole.events.conditions import FilterConditions, check_conditions
from petiole.events.content import Text
from petiole.events.errors import (
    UsageError,
    duplicate_subscription,
    invalid_name,
    invalid_option,
    invalid_pattern,
    invalid_subscription,
    missing_brackets,
    reserved_name,
)
from petiole.events.event import MAX_PRIORITY, Category
from petiole.events.ids import AGENT_NAME, RESERVED_AGENT_NAMES
from petiole.events.responses import REQUEST_EVENT_TYPE
from petiole.events.responses import responder_conditions as conditions_of
from petiole.events.subscriptions import Capacity, OnBusy, OrderingPath, Overflow, Subscription
from petiole.events.topics import check_pattern
from petiole.events.validation import invalid_options
from petiole.tasks.handling.handler import DEFAULT_RETRY, Handler, HandlerFunction, check_takes_event
from petiole.tasks.patterns.gather import COMPLETED_EVENT_TYPE, PartPattern, build_caller, build_collector, build_rule
from petiole.tasks.requests.responder import build_responder
from petiole.tasks.routing import traffic_split
from petiole.tasks.settlement.retry_policy import RetryPolicy

HandlerT = TypeVar("HandlerT", bound=HandlerFunction)

NO_RETRY = RetryPolicy(max_attempts=1)
_RETRY_POLICY = instance_of(RetryPolicy)
MIN_PARTS = 2
MAX_HANDLER_TIMEOUT_S = 7 * 24 * 3600.0


class Agent:
    """A subscriber with a name and a queue of its own; it is scaled and stopped independently of other agents.

    Args:
        name: also the name of its queue.
        capacity: how many deliveries may wait in the queue; None is unlimited.
        overflow: what publishing to a full queue does: wait for space (`block`), raise QueueFull (`reject`), or drop
            the oldest delivery (`drop_oldest`).

    Raises:
        UsageError: invalid_name, invalid_option.
    """

    @checks_arguments(capacity=Capacity | None, overflow=Overflow)
    def __init__(self, name: str, *, capacity: int | None = None, overflow: Overflow = "block") -> None:
        _check_name(name)
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
        """The subscriptions of all handlers.

        Raises UsageError (invalid_subscription) if the weights of a split leave streams without a variant.
        """
        subscriptions = [handler.subscription for handler in self.handlers.values()]
        _check_split_coverage(subscriptions)
        return subscriptions

    def on(
        self,
        *patterns: str,
        where: FilterConditions | None = None,
        ordered: bool | str = False,
        priority: int | None = None,
        expires: timedelta | float | None = None,
        split: str | None = None,
        variant: str | None = None,
        weight: float | None = None,
        shadow: bool = False,
        timeout: float | timedelta | None = None,
        on_busy: OnBusy | None = None,
        retry: RetryPolicy | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Subscribe a function to patterns.

        The function takes the event, and the context if it has a second parameter. It returns None, an event, or
        several events, also as a generator; they are published after it succeeded. It may be `async`.

        Args:
            patterns: topics in which `*` is a wildcard (events/topics.py).
            where: conditions on the event's JSON (events/conditions.py), checked when the event is published.
            ordered: True handles the events of one stream one at a time, in the order of publication, while other
                streams run in parallel. A path such as "content.parameters.account" orders by that field instead.
            priority: 0 to 9, 9 first; replaces the event's priority for these deliveries.
            expires: how long after the event's timestamp handling may begin; seconds or a timedelta.
            split: name of a traffic split. Of the agent's handlers in one split, one variant gets an event, always the
                same variant for a stream.
            variant: name of this variant in the split; by default the function's name.
            weight: percentage of the streams for this variant; variants without a weight share the rest.
            shadow: the handler gets every event, and its own events are captured and never published.
            timeout: time limit in seconds, after which the attempt fails. Works in every pool, with the restrictions
                in tasks/handling/time_limits.py.
            on_busy: for a handler that writes a response stream (`context.stream_response()`): what a new message of
                the user in the same stream does: "interrupt", "enqueue" or "reject" (tasks/streaming/writer.py). With
                None both streams are written at the same time.
            retry: how often a failed delivery is tried, and the delays. By default three attempts, at 0, 1 and 3 s;
                `RetryPolicy(max_attempts=1)` tries once.

        Raises:
            UsageError: invalid_pattern, invalid_filter, invalid_name, invalid_subscription, invalid_option,
                duplicate_subscription; or an ordered subscription of an agent with overflow `drop_oldest`.
        """
        _check_patterns("on", patterns)
        options = self._options(patterns) | {
            "ordered_by": self._ordering_path(ordered, is_needed=on_busy == "enqueue"),
            "where": check_conditions({} if where is None else where),
            "priority": priority,
            "expires": expires,
            "split": split,
            "variant": variant,
            "weight": weight,
            "shadow": shadow,
            "on_busy": on_busy,
        }
        timeout_s = _validate_timeout(timeout)

        def subscribe(function: HandlerT) -> HandlerT:
            self._add(function, options, timeout_s=timeout_s, retry=DEFAULT_RETRY if retry is None else retry)
            return function

        return subscribe

    def on_error(self, *patterns: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """Subscribe a function to the error channel: `error.*`, or patterns that begin with `error.`.

        Its deliveries have the highest priority in the agent's queue. A failure of the function is logged and
        dead-lettered without an event on the error channel, because errors about errors could repeat forever. Options
        and errors as `on`.
        """
        _check_patterns("on_error", patterns or ("error.*",))
        for pattern in patterns:
            if pattern.split(".")[0] != Category.ERROR:
                raise invalid_pattern(pattern, "the topics of the error channel begin with 'error.'")
        return self.on(*(patterns or ("error.*",)), **({"priority": MAX_PRIORITY} | options))

    def on_include(self, function: Callable[[], object]) -> Callable[[], object]:
        """Register a function that runs once, before the agent is first included in a bus.

        Use it for subscriptions whose options come from settings, because importing a module must not read settings.
        """
        self._to_include.append(function)
        return function

    def on_start(self, function: Callable[[], object]) -> Callable[[], object]:
        """Register a function for every process that runs this agent's handlers, before the first handler.

        tasks/consuming/agent_hooks.py has the details.
        """
        self.starts.append(function)
        return function

    def on_stop(self, function: Callable[[], object]) -> Callable[[], object]:
        """Register a function for each of these processes, after the last handler has ended."""
        self.stops.append(function)
        return function

    def answers(
        self,
        request_type: str,
        *,
        priority: int | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy = NO_RETRY,
        read_only: bool = True,
    ) -> Callable[[HandlerT], HandlerT]:
        """Answer requests of a type with the function's return value.

        A function that raises answers with a failure. tasks/requests/responder.py has its parameters.

        Args:
            request_type: the type of request that it answers.
            priority: as for `on`.
            timeout: as for `on`.
            retry: by default one attempt.
            read_only: False lets the function set the agent's state.

        Raises:
            UsageError: as `on`.
        """
        if callable(request_type):
            raise missing_brackets("answers", request_type, "'a_request_type'")
        check_argument("answers.request_type", request_type, Text)
        check_argument("answers.read_only", read_only, bool)
        timeout_s = _validate_timeout(timeout)
        conditions = conditions_of(self.name, request_type)
        options = self._options((REQUEST_EVENT_TYPE,)) | {"where": check_conditions(conditions), "priority": priority}

        def subscribe(function: HandlerT) -> HandlerT:
            for handler in self._handlers.values():
                if dict(handler.subscription.where) == conditions:
                    raise duplicate_subscription(handler.subscription.name)
            self._add(
                function,
                options,
                timeout_s=timeout_s,
                retry=retry,
                wrapper=build_responder(function, read_only=read_only),
            )
            return function

        return subscribe

    def gather(
        self,
        *parts: PartPattern,
        timeout: float | timedelta | None = None,
        by: str = "correlation_id",
        retry: RetryPolicy | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Wait for several events with the same key, in any order, then call a function once with all of them.

        The function takes the Gathered, and the context if it has a second parameter.

        Args:
            parts: two or more; each is a pattern or a tuple of alternative patterns.
            timeout: seconds after the first part; then the function gets the parts that have arrived (`partial`). It
                has to be given.
            by: dotted path of the field that all parts have in common.
            retry: as for `on`.

        Raises:
            UsageError: as `on`.
        """
        alternatives = [part if isinstance(part, tuple) else (part,) for part in parts]
        _check_patterns("gather", tuple(pattern for part in alternatives for pattern in part or ("",)))
        if len(parts) < MIN_PARTS:
            raise invalid_option("gather.parts", parts, "name two or more parts")
        check_argument("gather.by", by, OrderingPath)
        timeout_s = _validate_timeout(timeout)
        if timeout_s is None:
            raise invalid_option("gather.timeout", None, "give the seconds to wait for all parts, or a timedelta")

        def subscribe(function: HandlerT) -> HandlerT:
            check_takes_event(self.name, function, "gathered")
            name = f"{self.name}.{function.__name__}"
            rule = build_rule(name, parts, by, timedelta(seconds=timeout_s))
            policy = DEFAULT_RETRY if retry is None else retry
            collect = build_collector(rule, f"{function.__name__}_parts")
            self._add(collect, self._options(rule.patterns), retry=policy, gathered_by=by)
            options = self._options((COMPLETED_EVENT_TYPE,)) | {
                "where": check_conditions({"content.subscription": name})
            }
            self._add(function, options, retry=policy, wrapper=build_caller(rule, function))
            return function

        return subscribe

    def _ordering_path(self, ordered: bool | str, *, is_needed: bool) -> str | None:  # noqa: FBT001 - as `on` takes it
        """Return the path of the field that orders deliveries. Raises UsageError with overflow `drop_oldest`."""
        check_argument("on.ordered", ordered, bool | OrderingPath)
        ordered = ordered or is_needed
        if ordered and self.overflow == "drop_oldest":
            raise UsageError(
                f"an ordered subscription of {self.name!r} cannot use overflow 'drop_oldest'; use 'block' or 'reject'"
            )
        return "stream_id" if isinstance(ordered, bool) and ordered else ordered or None

    def _options(self, patterns: tuple[str, ...]) -> dict[str, object]:
        unset = dict.fromkeys(("ordered_by", "priority", "expires", "split", "variant", "weight", "on_busy"))
        return unset | {
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
        retry: RetryPolicy,
        wrapper: HandlerFunction | None = None,
        gathered_by: str | None = None,
    ) -> None:
        """Add a handler: the function, or a wrapper of it that takes the context."""
        check_argument("retry", retry, _RETRY_POLICY)
        takes_context = wrapper is not None or check_takes_event(self.name, function, "event")
        subscription = _subscription(self.name, function.__name__, options)
        if subscription.name in self._handlers:
            raise duplicate_subscription(subscription.name)
        existing = [handler.subscription for handler in self._handlers.values()]
        _check_weights([*existing, subscription], split=subscription)
        self._handlers[subscription.name] = Handler(
            subscription, wrapper or function, takes_context, timeout_s=timeout_s, retry=retry, gathered_by=gathered_by
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(AGENT_NAME, name):
        raise invalid_name("an agent", name)
    if re.fullmatch(RESERVED_AGENT_NAMES, name):
        raise reserved_name(name)


def _check_patterns(decorator: str, patterns: Sequence[object]) -> None:
    for pattern in patterns or [""]:
        if callable(pattern):
            raise missing_brackets(decorator, pattern, "'input.*'")
        check_pattern(pattern)


def _subscription(agent: str, function: str, options: Mapping[str, object]) -> Subscription:
    identity = {"agent": agent, "function": function}
    if options["split"] is not None and options["variant"] is None:
        identity["variant"] = function
    try:
        return Subscription.model_validate({**options, **identity})
    except ValidationError as error:
        raise invalid_options(f"{agent}.{function}", error) from error


def _check_weights(subscriptions: Sequence[Subscription], *, split: Subscription) -> None:
    """Refuse a weight that contradicts other handlers of the same split."""
    members = [
        subscription
        for subscription in subscriptions
        if subscription.split == split.split and subscription.split is not None
    ]
    weights = {member.weight for member in members if member.variant == split.variant and member.weight is not None}
    if len(weights) > 1:
        reason = (
            f"variant {split.variant!r} has the weights {_format_weights(weights)}; give one weight, at one handler"
        )
        raise invalid_subscription(split.name, "weight", reason)
    taken = traffic_split.weighted_buckets(traffic_split.variant_weights(members))
    if taken > traffic_split.BUCKETS:
        reason = f"the weights of split {split.split!r} add up to {_format_percent(taken)}; the maximum is 100"
        raise invalid_subscription(split.name, "weight", reason)


def _check_split_coverage(subscriptions: Sequence[Subscription]) -> None:
    for subscription in subscriptions:
        weights = traffic_split.variant_weights(other for other in subscriptions if other.split == subscription.split)
        taken = traffic_split.weighted_buckets(weights)
        if weights and None not in weights.values() and taken < traffic_split.BUCKETS:
            reason = (
                f"the weights of split {subscription.split!r} add up to {_format_percent(taken)}, and no variant gets "
                "the rest; omit the weight of one variant"
            )
            raise invalid_subscription(subscription.name, "weight", reason)


def _format_percent(buckets: int) -> str:
    return f"{buckets / traffic_split.PER_PERCENT:g}"


def _format_weights(weights: Iterable[float]) -> str:
    return " and ".join(f"{weight:g}" for weight in sorted(weights))


def _validate_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= MAX_HANDLER_TIMEOUT_S:
        return float(seconds)
    raise invalid_option("timeout", timeout, "give seconds above 0 and up to one week, a timedelta, or None")
