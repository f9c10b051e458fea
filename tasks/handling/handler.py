"""The handler of a subscription: its function and how to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from petiole.events.subscriptions import Subscription
from petiole.tasks.settlement.retry_policy import RetryPolicy

# Handlers annotate the event classes that they take, which no single callable type can express.
HandlerFunction: TypeAlias = Callable[..., Any]

DEFAULT_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Handler:
    """The function that handles a subscription's events, with its time limit and retry policy."""

    subscription: Subscription
    function: HandlerFunction
    takes_context: bool
    timeout_s: float | None = None
    retry: RetryPolicy = DEFAULT_RETRY
