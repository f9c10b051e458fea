"""Invocation: call a handler's function within its time limit and buffer the events that it returns.

    def, generator              runs in the delivery's thread
    async def, async generator  runs in the event loop of this process (tasks/handling/event_loop.py)

The outbox gets the events that it returns, yields or publishes, in that order.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, closing
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from petiole.events.errors import HandlerTimedOut, RetryLater, handler_returned_no_event
from petiole.events.event import Event
from petiole.tasks.handling import event_loop
from petiole.tasks.handling.buffering import buffer
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.handling.handler import Handler
from petiole.tasks.handling.time_limits import TimeLimitReached, call_within, time_limit
from petiole.tasks.settlement.exits import as_failure, is_shutdown
from petiole.tasks.settlement.retry_policy import Later


def run_handler(handler: Handler, context: CurrentDelivery) -> None:
    """Run a handler and buffer its events in the context's outbox.

    Raises:
        HandlerTimedOut: it took longer than its time limit.
        Permanent: handler_returned_no_event.
        RetryLater: it returned `later(…)`.
        Exception: the handler's error, or one in the place of an exit (tasks/settlement/exits.py).
        SystemExit: the process is being ended.
    """
    try:
        _run_within_limit(handler, partial(_call_handler, handler, context))
    except BaseException as error:
        if is_shutdown(error):
            raise
        raise as_failure(error, handler.subscription.name)  # noqa: B904 - its cause is set


def _run_within_limit(handler: Handler, call: Callable[[], object]) -> None:
    if handler.timeout_s is None:
        call()
        return
    try:
        with time_limit(handler.timeout_s):
            call_within(_hard_limit_s(handler, handler.timeout_s), call)
    except TimeLimitReached as error:
        raise HandlerTimedOut(handler.subscription.name, handler.timeout_s) from error


def _hard_limit_s(handler: Handler, timeout_s: float) -> float:
    # The loop cancels a coroutine first. One that blocks the loop or ignores the cancellation is interrupted later.
    is_async = inspect.iscoroutinefunction(handler.function) or inspect.isasyncgenfunction(handler.function)
    return timeout_s + event_loop.CLEANUP_TIMEOUT_S if is_async else timeout_s


def _call_handler(handler: Handler, context: CurrentDelivery) -> None:
    arguments = (context.event, context) if handler.takes_context else (context.event,)
    returned = handler.function(*arguments)
    if isinstance(returned, Awaitable | AsyncGeneratorType):
        event_loop.run_coroutine(_call_async(returned, handler, context))
    else:
        _buffer(returned, handler, context)


async def _call_async(
    returned: Awaitable[object] | AsyncGeneratorType[Any, Any], handler: Handler, context: CurrentDelivery
) -> None:
    limit = asyncio.timeout(handler.timeout_s)
    try:
        async with limit:
            await _buffer_async(returned, handler, context)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeLimitReached from error
    if limit.expired():  # the handler suppressed the cancellation
        raise TimeLimitReached


async def _buffer_async(
    returned: Awaitable[object] | AsyncGeneratorType[Any, Any], handler: Handler, context: CurrentDelivery
) -> None:
    if not isinstance(returned, AsyncGeneratorType):
        _buffer(await returned, handler, context)
        return
    async with aclosing(returned):
        async for event in returned:
            _buffer(event, handler, context)


def _buffer(returned: object, handler: Handler, context: CurrentDelivery) -> None:
    if isinstance(returned, GeneratorType):
        # Closed here, so that its `finally` runs within this delivery.
        with closing(returned):
            _buffer_each(returned, handler, context)
    else:
        _buffer_each(returned, handler, context)


def _buffer_each(returned: object, handler: Handler, context: CurrentDelivery) -> None:
    for event in _events(returned, handler):
        buffer(context, event)


def _events(returned: object, handler: Handler) -> Iterator[Event]:
    if returned is None:
        return
    if isinstance(returned, Later):
        raise RetryLater(f"{handler.subscription.name} deferred the event", returned.after_s)
    for event in returned if isinstance(returned, Iterable) and not isinstance(returned, Event) else [returned]:
        if not isinstance(event, Event):
            raise handler_returned_no_event(handler.subscription.name, type(event).__name__)
        yield event
