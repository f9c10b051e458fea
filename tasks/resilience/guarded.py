"""Breakers: what agents depend on is called through a circuit breaker that all workers share, and tried again.

    @guarded("llm.openai")                          a function or a coroutine function
    def ask(question: str) -> str: ...

    with guarded("llm.openai"): ...                 a block, which is not tried again; `async with` in coroutines

Outside stands tenacity, which tries again what failed: growing waits with jitter, as many attempts as were said and as
the delivery's time limit leaves room for, and no sooner than a server's Retry-After. Inside stands the breaker, which
each try goes through (circuits.py): after some failures in a row, or at a rate of failures, nobody calls the dependency
for the reset time; then one caller in the whole cluster probes whether it is back.

An open breaker raises ServiceUnavailable, and a Retry-After that is too long to wait for here, RetryLater
(service_throttled). Both put the handler's delivery off, and spend no attempt; so does, in a handler, a failure that
leaves the breaker open. Any other error comes out as it was raised. Whose fault an error is: blame.py. How calls are
tried again: trying.py.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Annotated, Any, ParamSpec, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tenacity import AsyncRetrying, Retrying

from petiole.events.errors import UsageError, invalid_option, service_throttled
from petiole.events.topics import Topic, check_topic
from petiole.tasks.handling.current import current_bus
from petiole.tasks.resilience.circuit_breaker import Passage
from petiole.tasks.resilience.error_classification import is_worth_retrying
from petiole.tasks.resilience.retrying import asked_wait_s, tries
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.circuits import Limits

P = ParamSpec("P")
R = TypeVar("R")

Duration = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=1))]


class BreakerOptions(BaseModel):
    """What `guarded` takes beside a name; durations as timedelta, or as seconds. Places that share a name share them.

    failures: how many in a row open the circuit; a success begins anew.
    rate: the share of failures (0 to 1) that opens it too, over `window`, from `least_calls` on; none by default.
    reset: how long it stays open before one call probes.
    timeout: how long a call may take. A coroutine is ended then, and has failed; a function cannot be ended from here:
        give its client a limit. A probe that is not over by then is taken for dead, and another may probe.
    attempts: how often one call is tried here in all; the waits grow from `wait` to `longest_wait`.
    mistakes: errors that are the caller's fault, beside those of blame.py: not counted, and not tried again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    failures: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 5
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    window: Duration = timedelta(minutes=1)
    least_calls: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 20
    reset: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(minutes=1)
    attempts: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    wait: Duration = timedelta(seconds=0.2)
    longest_wait: Duration = timedelta(seconds=5)
    mistakes: tuple[type[Exception], ...] = ()

    @property
    def limits(self) -> Limits:
        """What of it the circuit goes by."""
        return Limits(self.failures, self.reset, self.timeout, self.rate, self.window, self.least_calls)

    @property
    def tries(self) -> dict[str, Any]:
        """What of it tenacity goes by."""
        return tries(self.attempts, self.wait, self.longest_wait, self.mistakes)


def guarded(name: str, **options: object) -> Guard:
    """Guard calls to the dependency of that name, such as `llm.openai`; the options are those of BreakerOptions.

    Raises: UsageError (invalid_topic, invalid_option). What it guards raises: ServiceUnavailable, RetryLater
    (service_throttled), its own errors.
    """
    try:
        return Guard(check_topic(name), BreakerOptions.model_validate(options))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"])
        raise invalid_option(f"guarded.{field}", repr(first["input"]), first["msg"]) from error


class Guard:
    """What `guarded` returns: a decorator, or the context of one block."""

    def __init__(self, name: Topic, options: BreakerOptions) -> None:
        self.name = name
        self.options = options
        self._block: Passage | None = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard a function or a coroutine function. Raises UsageError for a generator."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(f"{function.__qualname__} is a generator; write `with guarded({self.name!r}):` inside it")
        if inspect.iscoroutinefunction(function):
            return self._guard_async(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bus = current_bus()

            def once() -> R:
                with self._passage(bus):
                    return function(*args, **kwargs)

            try:
                return Retrying(sleep=bus.store_clock.sleep, **self.options.tries)(once)
            except Exception as error:
                self._check_throttled(error)
                raise

        return call

    def _guard_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        timeout_s = self.options.timeout.total_seconds()

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            bus = current_bus()

            async def once() -> Any:
                async with self._passage(bus), asyncio.timeout(timeout_s):
                    return await function(*args, **kwargs)

            try:
                return await AsyncRetrying(
                    sleep=bus.store_clock.sleep_async,
                    **self.options.tries,
                )(once)
            except Exception as error:
                self._check_throttled(error)
                raise

        return call

    def __enter__(self) -> Self:
        """Enter the block. Raises ServiceUnavailable; UsageError for a second block."""
        self._block_once().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the block; what was raised in it goes on, or RetryLater (service_throttled) for it."""
        if self._block is not None:
            self._block.__exit__(kind, error, trace)
        self._check_throttled(error)

    async def __aenter__(self) -> Self:
        """Enter the block of a coroutine. Raises as __enter__."""
        await self._block_once().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the block of a coroutine, as __exit__."""
        if self._block is not None:
            await self._block.__aexit__(kind, error, trace)
        self._check_throttled(error)

    def _block_once(self) -> Passage:
        # Which epoch a call began in is the block's own: two that shared it would take each other's.
        if self._block is not None:
            raise UsageError(f"one guard holds one block; write `with guarded({self.name!r}):` where the block is")
        self._block = self._passage(current_bus())
        return self._block

    def _passage(self, bus: BusRuntime) -> Passage:
        return Passage(bus, self.name, self.options.limits, self.options.mistakes)

    def _check_throttled(self, error: BaseException | None) -> None:
        """Raise RetryLater (service_throttled) where the server said when to come again."""
        if error is not None and is_worth_retrying(error, self.options.mistakes) and (asked_s := asked_wait_s(error)):
            raise service_throttled(self.name, asked_s) from error
