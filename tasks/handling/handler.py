"""The handler of a subscription: its function and how to run it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from petiole.events.errors import invalid_handler, invalid_name
from petiole.events.subscriptions import FUNCTION_NAME, Subscription
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
    gathered_by: str | None = None
    """The path of the field that its events have to have in common, if it collects the parts of a gathering."""


def check_takes_event(agent: str, function: HandlerFunction, value: str) -> bool:
    """Check that a handler can be called with one value, or with it and the context; returns whether with both.

    Raises UsageError (invalid_name, invalid_handler).
    """
    # A value that is no function has no name, and neither has a functools.partial.
    name = getattr(function, "__name__", "")
    if not re.fullmatch(FUNCTION_NAME, name):
        raise invalid_name("a handler", name or function)
    signature = inspect.signature(function)
    takes_context = sum(parameter.kind in _POSITIONAL for parameter in signature.parameters.values()) > 1
    try:
        signature.bind(*("", "")[: 1 + takes_context])
    except TypeError as error:
        raise invalid_handler(f"{agent}.{name}", f"{name}{signature}", f"def {name}({value})") from error
    return takes_context


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
