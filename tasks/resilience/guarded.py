"""Call a dependency through a circuit breaker that all workers share, with retries.

    @guarded("llm.openai")                          a function or a coroutine function
    def ask(question: str) -> str: ...

    with guarded("llm.openai"): ...                 a block, without retries; `async with` in coroutines

Retries (retrying.py): tenacity repeats a failed call with growing waits and jitter. It stops after `attempts`, or when
the delivery's time limit leaves no time for the next wait, and never retries before a server's Retry-After.

Circuit breaker (circuit_breaker.py): every attempt goes through it. After `failures` in a row, or at a failure `rate`,
no worker calls the dependency for the `reset` time; then one caller in the whole cluster probes for recovery.

Errors: an open circuit raises ServiceUnavailable. A Retry-After that is too long to wait for raises RetryLater
(service_throttled). Both defer the handler's delivery without counting an attempt; so does a failure in a handler that
leaves the circuit open. Any other error propagates. error_classification.py decides which errors count as failures.
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

from petiole.events.content import Duration
from petiole.events.errors import UsageError, service_throttled
from petiole.events.topics import Topic, check_topic
from petiole.events.validation import invalid_argument
from petiole.tasks.handling.current import current_bus
from petiole.tasks.resilience.circuit_breaker import CircuitCall
from petiole.tasks.resilience.error_classification import is_worth_retrying
from petiole.tasks.resilience.retrying import requested_wait_s, retry_options
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.circuits import CircuitThresholds

P = ParamSpec("P")
R = TypeVar("R")

UpToOneDay = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=1))]


class BreakerOptions(BaseModel):
    """Options of `guarded`. Durations are timedelta, or seconds. Use the same options wherever you use the same name.

    Attributes:
        failures: Failures in a row that open the circuit. A success resets the count.
        rate: Share of failures (0 to 1) over `window`, from `min_calls` on, that opens it too; None for no such limit.
        window: Period over which `rate` is measured.
        min_calls: Fewest calls in `window` for which `rate` applies.
        reset: How long the circuit stays open before one call probes.
        timeout: How long a call may take. A coroutine is cancelled and counts as failed. A function cannot be
            cancelled: set a timeout in its client. After `timeout`, an unfinished probe is given up and another call
            may probe.
        attempts: Attempts of one call in total.
        wait: First wait between attempts.
        max_wait: Longest wait between attempts.
        ignored_errors: Further errors that are the caller's fault; they are neither counted nor retried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    failures: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 5
    rate: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None
    window: UpToOneDay = timedelta(minutes=1)
    min_calls: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 20
    reset: UpToOneDay = timedelta(seconds=30)
    timeout: UpToOneDay = timedelta(minutes=1)
    attempts: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    wait: UpToOneDay = timedelta(seconds=0.2)
    max_wait: UpToOneDay = timedelta(seconds=5)
    ignored_errors: tuple[type[Exception], ...] = ()

    @property
    def thresholds(self) -> CircuitThresholds:
        """The options of the circuit breaker."""
        return CircuitThresholds(self.failures, self.reset, self.timeout, self.rate, self.window, self.min_calls)

    @property
    def retry_options(self) -> dict[str, Any]:
        """The options of tenacity."""
        return retry_options(self.attempts, self.wait, self.max_wait, self.ignored_errors)


def guarded(name: str, **options: object) -> Guard:
    """Guard calls to a dependency with a circuit breaker and retries; see the module.

    The guarded call raises ServiceUnavailable, RetryLater (service_throttled), and its own errors.

    Args:
        name: The dependency's name in the form of a topic, such as `llm.openai`.
        **options: The fields of BreakerOptions.

    Raises:
        UsageError: (invalid_topic, invalid_option) the name or an option is invalid.
    """
    try:
        return Guard(check_topic(name), BreakerOptions.model_validate(options))
    except ValidationError as error:
        raise invalid_argument("guarded", error) from error


class Guard:
    """A decorator for functions, or the context manager of one block."""

    def __init__(self, name: Topic, options: BreakerOptions) -> None:
        self.name = name
        self.options = options
        self._block: CircuitCall | None = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard a function or a coroutine function. Raises UsageError for a generator."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"{function.__qualname__} is a generator, which cannot be retried; "
                f"write `with guarded({self.name!r}):` inside it"
            )
        if inspect.iscoroutinefunction(function):
            return self._guard_async(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bus = current_bus()

            def attempt() -> R:
                with self._circuit_call(bus):
                    return function(*args, **kwargs)

            try:
                return Retrying(sleep=bus.store_clock.sleep, **self.options.retry_options)(attempt)
            except Exception as error:
                self._check_throttled(error)
                raise

        return call

    def _guard_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        timeout_s = self.options.timeout.total_seconds()

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            bus = current_bus()

            async def attempt() -> Any:
                async with self._circuit_call(bus), asyncio.timeout(timeout_s):
                    return await function(*args, **kwargs)

            try:
                return await AsyncRetrying(
                    sleep=bus.store_clock.sleep_async,
                    **self.options.retry_options,
                )(attempt)
            except Exception as error:
                self._check_throttled(error)
                raise

        return call

    def __enter__(self) -> Self:
        """Enter the block. Raises ServiceUnavailable; UsageError for a second block."""
        self._enter_block().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the block. Its exception propagates, or RetryLater (service_throttled) is raised from it."""
        if self._block is not None:
            self._block.__exit__(kind, error, trace)
        self._check_throttled(error)

    async def __aenter__(self) -> Self:
        """Enter the block in a coroutine. Raises as __enter__."""
        await self._enter_block().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the block in a coroutine, as __exit__."""
        if self._block is not None:
            await self._block.__aexit__(kind, error, trace)
        self._check_throttled(error)

    def _enter_block(self) -> CircuitCall:
        # A CircuitCall has the epoch of its own call, so two blocks cannot share one.
        if self._block is not None:
            raise UsageError(
                f"guarded({self.name!r}) was already entered; write `with guarded({self.name!r}):` for each block"
            )
        self._block = self._circuit_call(current_bus())
        return self._block

    def _circuit_call(self, bus: BusRuntime) -> CircuitCall:
        return CircuitCall(bus, self.name, self.options.thresholds, self.options.ignored_errors)

    def _check_throttled(self, error: BaseException | None) -> None:
        """Raise RetryLater (service_throttled) if the server requested a wait."""
        if (
            error is not None
            and is_worth_retrying(error, self.options.ignored_errors)
            and (wait_s := requested_wait_s(error))
        ):
            raise service_throttled(self.name, wait_s) from error
