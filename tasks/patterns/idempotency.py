"""Idempotence: what acts on the world outside acts once for each key, whoever calls it and however often.

    @idempotent(key=lambda order, pence: f"charge {order}")
    def charge(order: str, pence: int) -> dict[str, str]: ...

The first call runs the function and remembers its result, as JSON; later calls with that key, in any process, return
the result without running it (for PETIOLE_IDEMPOTENCY_RETENTION_S). Without `key`, inside a handler, the key is the
delivery's.

What it cannot know is whether the world changed where the process died in the middle. The key then stands as begun and
not done, and `on_unfinished` says what that means:

    "raise"     OperationOutcomeUnknown: it is not run again before somebody has looked, and said `forget` or `settle`
    "repeat"    it is run again: it may act twice, and never not at all

That a beginning is over, and not under way elsewhere, is known where the same delivery comes again, and assumed once
`limit` has passed. A function that raises is taken not to have acted, and the next call runs it again; unless it was a
time limit that ended it, which is an end in the middle. Where the whole effect is in one SQL database, a row in the
same transaction does better than this: docs/guides/effects.md.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar
from uuid import uuid4

from celery.exceptions import SoftTimeLimitExceeded

from petiole.events.errors import OperationInProgress, OperationOutcomeUnknown, UsageError
from petiole.tasks.handling.current import current_bus, current_context
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.idempotency_records import IdempotencyRecords

OnUnfinished: TypeAlias = Literal["raise", "repeat"]

DEFAULT_LIMIT = timedelta(minutes=5)
"""How long a function may run before its beginning counts as abandoned."""

P = ParamSpec("P")
R = TypeVar("R")


def idempotent(
    key: Callable[..., str] | None = None,
    *,
    name: str | None = None,
    on_unfinished: OnUnfinished = "raise",
    limit: timedelta = DEFAULT_LIMIT,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run a function, or a coroutine function, once for each key; `key` takes its arguments.

    `name` keeps the keys of functions apart, and stays when the function is moved; by default it is module and name.
    The decorated function raises: OperationOutcomeUnknown, OperationInProgress (another call is at it: try later),
    UsageError for a result that is no JSON or a missing key, BrokerUnavailable, and what the function raises.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        called = name or f"{function.__module__}.{function.__qualname__}"

        def effect(*args: P.args, **kwargs: P.kwargs) -> _Operation:
            return _Operation(called, key(*args, **kwargs) if key else _delivery_key(called), on_unfinished, limit)

        if inspect.iscoroutinefunction(function):
            return _wrap_async(function, effect)

        @functools.wraps(function)
        def once(*args: P.args, **kwargs: P.kwargs) -> R:
            this = effect(*args, **kwargs)
            if this.begin():
                with this.release_on_error():
                    returned = function(*args, **kwargs)
                this.finish(returned)
            result: R = this.result()
            return result

        return once

    return decorate


def forget_call(name: str, key: str, *, bus: BusRuntime | None = None) -> bool:
    """Let an effect run again, whether it was done or not; returns whether it was known."""
    return _store(bus).forget(_full_name(name, key))


def mark_done(name: str, key: str, result: object = None, *, bus: BusRuntime | None = None) -> None:
    """Note an unfinished effect as done, with what its function would have returned. One that is done stays."""
    _store(bus).finish(_full_name(name, key), json.dumps({"result": result}))


def _wrap_async(function: Callable[P, Any], operation: Callable[P, _Operation]) -> Callable[P, Any]:
    @functools.wraps(function)
    async def once(*args: P.args, **kwargs: P.kwargs) -> Any:
        this = operation(*args, **kwargs)
        if this.begin():
            with this.release_on_error():
                returned = await function(*args, **kwargs)
            this.finish(returned)
        return this.result()

    return once


@dataclass(slots=True)
class _Operation:
    """One call of an idempotent function."""

    name: str
    key: str
    on_unfinished: OnUnfinished
    limit: timedelta
    token: str = ""
    outcome: str = ""

    def begin(self) -> bool:
        """Tell whether this call is to run the function. Raises OperationOutcomeUnknown, OperationInProgress."""
        context = current_context()
        self.token = str(uuid4())
        with current_bus().state_store_access(f"making sure that {self.name} runs once"):
            beginning = _store().begin(
                _full_name(self.name, self.key),
                token=self.token,
                owner=context.delivery_id if context else "",
                limit=self.limit,
                repeats_unfinished=self.on_unfinished == "repeat",
            )
        match beginning.state:
            case "unfinished":
                raise OperationOutcomeUnknown(self.name, self.key, str(beginning.since))
            case "in_progress":
                raise OperationInProgress(self.name, self.key, str(beginning.since))
        self.outcome = beginning.outcome
        return beginning.state == "started"

    @contextmanager
    def release_on_error(self) -> Iterator[None]:
        """Let the function be run again where it raises; one that is ended from outside stays unfinished."""
        try:
            yield
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # it goes on as it came
            with current_bus().state_store_access(f"making sure that {self.name} runs once"):
                _store().release(_full_name(self.name, self.key), self.token)
            raise

    def finish(self, returned: object) -> None:
        """Remember what the function returned: it acted, even if that is no JSON."""
        try:
            outcome = json.dumps({"result": returned}, allow_nan=False)
        except (TypeError, ValueError):
            outcome = json.dumps({"no_json": type(returned).__name__})
        with current_bus().state_store_access(f"making sure that {self.name} runs once"):
            self.outcome = _store().finish(_full_name(self.name, self.key), outcome)

    def result(self) -> Any:
        """Read what is remembered: the first call returns what later calls will.

        Raises UsageError where it is no JSON.
        """
        outcome = json.loads(self.outcome)
        if "no_json" in outcome:
            reason = f"{self.name} acted, and returned a {outcome['no_json']}, which cannot be remembered as JSON"
            raise UsageError(f"{reason}; return text, numbers, true/false, None, lists and dicts")
        return outcome["result"]


def _delivery_key(name: str) -> str:
    context = current_context()
    if context is None:
        raise UsageError(
            f"{name} is called outside a handler, where it has no key of its own; give @idempotent a key=…"
        )
    return context.idempotency_key


def _store(bus: BusRuntime | None = None) -> IdempotencyRecords:
    return current_bus(bus).stores.idempotency_records


def _full_name(name: str, key: str) -> str:
    return f"{name}:{key}"
