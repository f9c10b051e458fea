"""Handlers: a subscription with the function that handles its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from petiole.events.subscriptions import Subscription
from petiole.tasks.settlement.retry_policy import RetryPolicy

# Handlers annotate the event classes they take, which no single callable type can say.
HandlerFunction: TypeAlias = Callable[..., Any]

DEFAULT_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Handler:
    """A subscription with the function that acts on its events."""

    subscription: Subscription
    function: HandlerFunction
    takes_context: bool
    timeout_s: float | None = None
    batch: int | None = None
    retry: RetryPolicy = DEFAULT_RETRY
