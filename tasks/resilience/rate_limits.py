"""Rate limits: requests and tokens per minute of a provider's account, shared by all workers.

    account = RateLimit("openai.main", requests=500, tokens=200_000)

    with account.reserve(tokens=1_200) as reservation:           an estimate; may raise RateLimitExceeded
        answer = ask()
        reservation.record_usage(answer.usage.total_tokens)      settled at the end of the block

RateLimitExceeded has the time until the quota allows the call. In a handler it defers the delivery until then without
counting an attempt. Reserve inside a function that @guarded decorates, because each attempt is a request. At the end:

- a call that did not reach the provider (connection refused, circuit open) is released;
- a call that was answered with an error counts as a request without tokens;
- any other failed call counts as reserved, because its usage is unknown;
- a 429 pauses the account for all workers until its Retry-After.

A call counts from its reservation until one window after it was settled. Whenever the provider counted it in between,
no window of that length has more than the quota: docs/decisions/0031-rate-limit-window.md. Tokens above the estimate
are known too late: estimate the most tokens that a call can use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Annotated, Any, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petiole.events.arguments import checks_arguments
from petiole.events.content import Duration
from petiole.events.errors import RateLimitExceeded, RetryLater, invalid_option
from petiole.events.topics import Topic
from petiole.events.validation import invalid_argument
from petiole.tasks.handling.current import current_bus, current_context
from petiole.tasks.resilience.error_classification import http_status_of, iterate_causes, retry_after
from petiole.tasks.resilience.fail_open import query_store, update_store
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.rate_limits import Quota, RateLimitUsage

Amount = Annotated[int, Field(strict=True, ge=1, lt=2**53)]
UpToOneDay = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=1))]

DEFAULT_PAUSE_FRACTION = 0.1
"""The pause after a 429 without Retry-After, as a fraction of the window."""


class RateLimit(BaseModel):
    """An account's quotas per window. Durations are timedelta, or seconds. Use the same options for the same account.

    Attributes:
        account: The account's name in the form of a topic.
        requests: Most requests per window; None for no limit.
        tokens: Most tokens per window; None for no limit.
        window: Length of the window.
        timeout: How long a call may take. A reservation that is not settled expires one window after that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: Topic
    requests: Amount | None = None
    tokens: Amount | None = None
    window: UpToOneDay = timedelta(minutes=1)
    timeout: UpToOneDay = timedelta(minutes=2)

    def __init__(self, account: str, **options: Any) -> None:
        try:
            super().__init__(account=account, **options)
        except ValidationError as error:
            raise invalid_argument("RateLimit", error) from error

    def reserve(self, *, tokens: int = 0) -> Reservation:
        """Reserve one call and its estimated tokens before the call.

        Raises:
            RateLimitExceeded: The quota does not allow the call now.
            UsageError: (invalid_option) `tokens` is negative, or more than the quota of a window.
        """
        if type(tokens) is not int or tokens < 0:
            raise invalid_option("tokens", tokens, "give the number of tokens that the call may use, from 0")
        if self.tokens is not None and tokens > self.tokens:
            remedy = f"the rate limit {self.account} allows 0 to {self.tokens} per window; split the call, or raise it"
            raise invalid_option("tokens", tokens, remedy)
        bus, delivery = current_bus(), current_context()
        agent = delivery.subscription.agent if delivery else ""
        call_id = str(uuid4())
        quota = Quota(self.requests, self.tokens, self.window, self.timeout)
        refusal = query_store(
            bus, self.account, lambda: bus.stores.rate_limits.reserve(self.account, call_id, tokens, quota, agent=agent)
        )
        if refusal is not None:
            raise RateLimitExceeded(self.account, refusal.reason, round(refusal.wait.total_seconds(), 3))
        return Reservation(self, bus, call_id)

    async def reserve_async(self, *, tokens: int = 0) -> Reservation:
        """As `reserve`, without blocking the event loop."""
        return await asyncio.to_thread(self.reserve, tokens=tokens)

    @checks_arguments(duration=Annotated[Duration, Field(ge=timedelta(0), le=timedelta(days=366))])
    def pause(self, duration: timedelta | float) -> None:
        """Reject reservations on this account for `duration` (or seconds). A longer pause stays in effect."""
        duration = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        bus = current_bus()
        update_store(bus, self.account, lambda: bus.stores.rate_limits.pause(self.account, duration))

    def usage(self) -> RateLimitUsage:
        """Return the account's current usage, as of the last call."""
        bus = current_bus()
        with bus.state_store_access(f"reading the usage of {self.account}"):
            return bus.stores.rate_limits.usage(self.account)


class Reservation:
    """One call's reserved share of a rate limit, until it is settled or released: explicitly, or at the block's end."""

    def __init__(self, rate_limit: RateLimit, bus: BusRuntime, call_id: str) -> None:
        self.id = call_id
        self._budget = rate_limit
        self._bus = bus
        self._used: int | None = None
        self._is_over = False

    def record_usage(self, tokens: int) -> None:
        """Set the number of tokens that the call used. The block's end settles it."""
        self._used = tokens

    def settle(self, tokens: int | None = None) -> None:
        """Count the used tokens, by default the reserved ones. Only the first settlement or release has an effect."""
        rate_limits, account, window = self._bus.stores.rate_limits, self._budget.account, self._budget.window
        self._finish(lambda: rate_limits.settle(account, self.id, tokens, window))

    def release(self) -> None:
        """Return the reserved share, because the call was not made."""
        self._finish(lambda: self._bus.stores.rate_limits.release(self._budget.account, self.id))

    def _finish(self, operation: Callable[[], None]) -> None:
        if not self._is_over:
            self._is_over = True
            update_store(self._bus, self._budget.account, operation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle or release by the call's outcome. An exception of the call propagates."""
        status = http_status_of(error) if error is not None else None
        if status == HTTPStatus.TOO_MANY_REQUESTS and error is not None:
            self._budget.pause(retry_after(error) or self._budget.window * DEFAULT_PAUSE_FRACTION)
        if self._used is None and error is not None and _was_not_sent(error):
            self.release()
        else:
            self.settle(0 if status is not None and self._used is None else self._used)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As __exit__, without blocking the event loop."""
        await asyncio.to_thread(self.__exit__, kind, error, trace)


def _was_not_sent(error: BaseException) -> bool:
    was_rejected_here = isinstance(error, RetryLater) and error.__cause__ is None
    return was_rejected_here or any(isinstance(cause, ConnectionRefusedError) for cause in iterate_causes(error))
