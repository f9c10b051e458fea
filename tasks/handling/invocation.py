"""Handlers: how a handler's function is run, whatever kind of function it is, and ended where it has a time limit.

    def, generator              in the thread that delivers
    async def, async generator  in the one loop of this process (loops.py)

What it returns or yields is held back in the order in which it says it, together with what it publishes meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import aclosing, closing
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from petiole.events.errors import HandlerTimedOut, RetryLater, handler_returned_no_event
from petiole.events.event import Event
from petiole.tasks.handling import event_loop
from petiole.tasks.handling.buffering import hold
from petiole.tasks.handling.current import CurrentDelivery
from petiole.tasks.handling.handler import Handler
from petiole.tasks.handling.time_limits import Overdue, call_within, time_limit
from petiole.tasks.settlement.retry_policy import Later


def run_handler(handler: Handler, context: CurrentDelivery) -> None:
    """Run a handler, and hold what it says in the context's outbox.

    Raises: HandlerTimedOut once it has ended after its time limit; Permanent (handler_returned_no_event); RetryLater
    where it returned `later(…)`; what the handler raises.
    """
    act = partial(_act, handler, context)
    if handler.timeout_s is None:
        act()
        return
    try:
        with time_limit(handler.timeout_s):
            call_within(_last_moment_s(handler, handler.timeout_s), act)
    except Overdue as overdue:
        raise HandlerTimedOut(handler.subscription.name, handler.timeout_s) from overdue


def _last_moment_s(handler: Handler, timeout_s: float) -> float:
    # A coroutine is cancelled in its loop; only one that blocks the loop or refuses to end is ended as functions are.
    is_async = inspect.iscoroutinefunction(handler.function) or inspect.isasyncgenfunction(handler.function)
    return timeout_s + event_loop.CLEANUP_LIMIT_S if is_async else timeout_s


def _act(handler: Handler, context: CurrentDelivery) -> None:
    arguments = (context.event, context) if handler.takes_context else (context.event,)
    returned = handler.function(*arguments)
    if isinstance(returned, Awaitable | AsyncGeneratorType):
        event_loop.run(_act_async(returned, handler, context))
    else:
        _hold(returned, handler, context)


async def _act_async(
    returned: Awaitable[object] | AsyncGeneratorType[Any, Any], handler: Handler, context: CurrentDelivery
) -> None:
    limit = asyncio.timeout(handler.timeout_s)
    try:
        async with limit:
            await _hold_async(returned, handler, context)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise Overdue from error
    if limit.expired():  # the handler kept the cancellation for itself
        raise Overdue


async def _hold_async(
    returned: Awaitable[object] | AsyncGeneratorType[Any, Any], handler: Handler, context: CurrentDelivery
) -> None:
    if not isinstance(returned, AsyncGeneratorType):
        _hold(await returned, handler, context)
        return
    async with aclosing(returned):
        async for each in returned:
            _hold(each, handler, context)


def _hold(returned: object, handler: Handler, context: CurrentDelivery) -> None:
    if isinstance(returned, GeneratorType):
        # Closed here, so that its `finally` belongs to this delivery whatever ends it.
        with closing(returned):
            _hold_each(returned, handler, context)
    else:
        _hold_each(returned, handler, context)


def _hold_each(returned: object, handler: Handler, context: CurrentDelivery) -> None:
    for event in _events(returned, handler):
        hold(context, event)


def _events(returned: object, handler: Handler) -> Iterator[Event]:
    if returned is None:
        return
    if isinstance(returned, Later):
        raise RetryLater(f"{handler.subscription.name} does not want it yet", returned.after_s)
    for each in returned if isinstance(returned, Iterable) and not isinstance(returned, Event) else [returned]:
        if not isinstance(each, Event):
            raise handler_returned_no_event(handler.subscription.name, type(each).__name__)
        yield each
