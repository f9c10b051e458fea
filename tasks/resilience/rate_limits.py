"""Budgets: requests and tokens per minute of a provider's account, kept by all workers together.

    account = Budget("openai.main", requests=500, tokens=200_000)

    with account.reserve(tokens=1_200) as reserved:         an estimate; refused with RateLimitExceeded where there is
    no room
        answer = ask()
        reserved.used(answer.usage.total_tokens)            the truth, which is settled at the block's end

RateLimitExceeded says when there will be room, and puts a handler's delivery off until then; no attempt is spent.
Reserve inside what @guarded guards: each try is a request. A call that cannot have reached the provider is released:
its connection was refused, or its breaker open. One that was answered with an error counts as a request without tokens.
Any other failure counts as reserved, for nobody knows better. A 429 pauses everybody on the account until its
Retry-After.

A call counts from its reservation until a window after it was settled. Whenever the provider counted it in between, no
window of that length holds more than the quota: docs/decisions/0031-rate-limit-window.md. What is over the estimate is
known too late to prevent it: estimate with the most tokens that a call can use.
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

from petiole.events.errors import RateLimitExceeded, RetryLater, invalid_option
from petiole.events.topics import Topic
from petiole.tasks.handling.current import current_bus
from petiole.tasks.resilience.error_classification import retry_after, status_of, with_causes
from petiole.tasks.resilience.fail_open import ask, note
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.rate_limits import Quota, Spent

Amount = Annotated[int, Field(strict=True, ge=1)]
Duration = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=1))]

DEFAULT_PAUSE_SHARE = 0.1
"""A 429 that does not say for how long pauses the account for this share of the window."""


class Budget(BaseModel):
    """An account's quotas per window; durations as timedelta, or as seconds. Places that share a name share them.

    timeout: how long a call may take; one that nobody settles is forgotten a window after that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: Topic
    requests: Amount | None = None
    tokens: Amount | None = None
    window: Duration = timedelta(minutes=1)
    timeout: Duration = timedelta(minutes=2)

    def __init__(self, account: str, **options: Any) -> None:
        try:
            super().__init__(account=account, **options)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(step) for step in first["loc"])
            raise invalid_option(f"budget.{field}", repr(first["input"]), first["msg"]) from error

    def reserve(self, *, tokens: int = 0) -> Reservation:
        """Count one call and its estimated tokens, before it is made.

        Raises: RateLimitExceeded where there is no room now; UsageError (invalid_option) where there never is.
        """
        if tokens < 0 or (self.tokens is not None and tokens > self.tokens):
            remedy = f"the budget {self.account} has 0 to {self.tokens} in each window; split the call, or raise it"
            raise invalid_option("tokens", str(tokens), remedy)
        bus = current_bus()
        call_id = str(uuid4())
        quota = Quota(self.requests, self.tokens, self.window, self.timeout)
        refusal = ask(bus, self.account, lambda: bus.stores.budgets.reserve(self.account, call_id, tokens, quota))
        if refusal is not None:
            raise RateLimitExceeded(self.account, refusal.reason, round(refusal.wait.total_seconds(), 3))
        return Reservation(self, bus, call_id)

    async def reserve_async(self, *, tokens: int = 0) -> Reservation:
        """Reserve as `reserve`, and let the loop go on meanwhile."""
        return await asyncio.to_thread(self.reserve, tokens=tokens)

    def pause(self, duration: timedelta) -> None:
        """Let nobody reserve on this account for so long; a longer pause stands."""
        bus = current_bus()
        note(bus, self.account, lambda: bus.stores.budgets.pause(self.account, duration))

    def spent(self) -> Spent:
        """Read what counts against the account, as of the last call."""
        return current_bus().stores.budgets.spent(self.account)


class Reservation:
    """One call's part of a budget, until it is settled or released: by hand, or at the end of its block."""

    def __init__(self, budget: Budget, bus: BusRuntime, call_id: str) -> None:
        self.id = call_id
        self._budget = budget
        self._bus = bus
        self._used: int | None = None
        self._is_over = False

    def used(self, tokens: int) -> None:
        """Say how many tokens the call really used; it is settled at the block's end."""
        self._used = tokens

    def settle(self, tokens: int | None = None) -> None:
        """Count what the call really used, by default what was reserved. The first settlement or release stands."""
        budgets, account, window = self._bus.stores.budgets, self._budget.account, self._budget.window
        self._end(lambda: budgets.settle(account, self.id, tokens, window))

    def release(self) -> None:
        """Give it back: the call was not made."""
        self._end(lambda: self._bus.stores.budgets.release(self._budget.account, self.id))

    def _end(self, act: Callable[[], None]) -> None:
        if not self._is_over:
            self._is_over = True
            note(self._bus, self._budget.account, act)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle or release, as the call ended; what it raised goes on."""
        status = status_of(error) if error is not None else None
        if status == HTTPStatus.TOO_MANY_REQUESTS and error is not None:
            self._budget.pause(retry_after(error) or self._budget.window * DEFAULT_PAUSE_SHARE)
        if self._used is None and error is not None and _never_left(error):
            self.release()
        else:
            self.settle(0 if status is not None and self._used is None else self._used)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As __exit__; the loop goes on meanwhile."""
        await asyncio.to_thread(self.__exit__, kind, error, trace)


def _never_left(error: BaseException) -> bool:
    refused_here = isinstance(error, RetryLater) and error.__cause__ is None
    return refused_here or any(isinstance(each, ConnectionRefusedError) for each in with_causes(error))
