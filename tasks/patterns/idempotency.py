"""Idempotency: a function with an external effect runs once per key, however often it is called.

    @idempotent(key=lambda order, pence: f"charge {order}")
    def charge(order: str, pence: int) -> dict[str, str]: ...

The first call runs the function and stores its result as JSON. Later calls with that key, in any process, return the
result without running the function (for PETIOLE_IDEMPOTENCY_RETENTION_S). In a handler, the key may be omitted: it is
then that of the delivery.

If the process dies during the call, it is unknown whether the effect happened. The key is then recorded as unfinished,
and `on_unfinished` decides what the next call does:

    "raise"     raises OperationOutcomeUnknown until somebody has checked and called `forget_call` or `mark_done`
    "repeat"    runs the function again: at least once, possibly twice

A call counts as unfinished, and not as running elsewhere, when the same delivery is attempted again or when `limit`
has passed. A function that raises counts as without effect, and the next call runs it again, except that a time limit
leaves it unfinished. If the whole effect is in one SQL database, a row in the same transaction is better:
docs/guides/effects.md.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, ParamSpec, TypeAlias, TypeVar
from uuid import uuid4

from celery.exceptions import SoftTimeLimitExceeded
from pydantic import Field

from petiole.events.arguments import checks_arguments
from petiole.events.content import Duration, Text
from petiole.events.errors import OperationInProgress, OperationOutcomeUnknown, UsageError, invalid_option
from petiole.tasks.handling.current import current_bus, current_context
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.idempotency_records import IdempotencyRecords
from petiole.tasks.stores.keys import escape_separator

OnUnfinished: TypeAlias = Literal["raise", "repeat"]

DEFAULT_LIMIT = timedelta(minutes=5)
"""How long a function may run before its call counts as unfinished."""

P = ParamSpec("P")
R = TypeVar("R")


@checks_arguments(
    key=Callable[..., Any] | None,
    name=Text | None,
    on_unfinished=OnUnfinished,
    limit=Annotated[Duration, Field(ge=timedelta(0))],
)
def idempotent(
    key: Callable[..., str] | None = None,
    *,
    name: str | None = None,
    on_unfinished: OnUnfinished = "raise",
    limit: timedelta | float = DEFAULT_LIMIT,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run a function, or a coroutine function, once per key.

    The decorated function raises OperationOutcomeUnknown, OperationInProgress (another call with that key is running),
    UsageError for a result that is not JSON or for a missing key, BrokerUnavailable, and its own errors.

    Args:
        key: Takes the function's arguments and returns the key; by default the key of the delivery.
        name: Separates the keys of different functions; by default module and name. Give one before you move the
            function.
        on_unfinished: What a call does if an earlier one did not finish; see the module.
        limit: How long a call may run before it counts as unfinished; a timedelta, or seconds.

    Raises:
        UsageError: (invalid_option) an option is invalid; or it is written without brackets.
    """
    limit = limit if isinstance(limit, timedelta) else timedelta(seconds=limit)

    def decorate(*functions: Callable[P, R]) -> Callable[P, R]:
        # Written without brackets, `key` is the function, and this is called with its arguments.
        if len(functions) != 1 or not callable(functions[0]):
            raise UsageError("@idempotent has no brackets; write @idempotent(key=…), or @idempotent() in a handler")
        function = functions[0]
        full_name = name or f"{function.__module__}.{function.__qualname__}"

        def build_operation(*args: P.args, **kwargs: P.kwargs) -> _Operation:
            call_key = key(*args, **kwargs) if key else _delivery_key(full_name)
            return _Operation(full_name, call_key, on_unfinished, limit)

        if inspect.iscoroutinefunction(function):
            return _wrap_async(function, build_operation)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            operation = build_operation(*args, **kwargs)
            if operation.begin():
                with operation.release_on_error():
                    returned = function(*args, **kwargs)
                operation.finish(returned)
            result: R = operation.result()
            return result

        return call

    return decorate


@checks_arguments(name=Text, key=Text)
def forget_call(name: str, key: str, *, bus: BusRuntime | None = None) -> bool:
    """Delete a call's record, so that the function runs again; returns whether there was a record."""
    with current_bus(bus).state_store_access(f"forgetting the call of {name}"):
        return _store(bus).forget(_full_name(name, key))


@checks_arguments(name=Text, key=Text)
def mark_done(name: str, key: str, result: object = None, *, bus: BusRuntime | None = None) -> None:
    """Record an unfinished call as done, with the function's result. A finished call keeps its result.

    Raises UsageError (invalid_option) for a result that is not JSON.
    """
    try:
        outcome = json.dumps({"result": result}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        remedy = "give text, numbers, true/false, None, lists and dicts"
        raise invalid_option("mark_done.result", result, remedy) from error
    with current_bus(bus).state_store_access(f"recording the call of {name}"):
        _store(bus).finish(_full_name(name, key), outcome)


def _wrap_async(function: Callable[P, Any], build_operation: Callable[P, _Operation]) -> Callable[P, Any]:
    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        operation = build_operation(*args, **kwargs)
        if operation.begin():
            with operation.release_on_error():
                returned = await function(*args, **kwargs)
            operation.finish(returned)
        return operation.result()

    return call


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
        """Record the call as begun; returns whether it has to run the function.

        Raises OperationOutcomeUnknown, OperationInProgress.
        """
        context = current_context()
        self.token = str(uuid4())
        with current_bus().state_store_access(f"recording the call of {self.name}"):
            record = _store().begin(
                _full_name(self.name, self.key),
                token=self.token,
                owner=context.delivery_id if context else "",
                limit=self.limit,
                repeats_unfinished=self.on_unfinished == "repeat",
            )
        match record.state:
            case "unfinished":
                raise OperationOutcomeUnknown(self.name, self.key, str(record.since))
            case "in_progress":
                raise OperationInProgress(self.name, self.key, str(record.since))
        self.outcome = record.outcome
        return record.state == "started"

    @contextmanager
    def release_on_error(self) -> Iterator[None]:
        """Delete the record if the function raises, except for a time limit, which leaves the call unfinished."""
        try:
            yield
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # raised again below
            with current_bus().state_store_access(f"recording the call of {self.name}"):
                _store().release(_full_name(self.name, self.key), self.token)
            raise

    def finish(self, returned: object) -> None:
        """Store the function's result. If it is not JSON, store its type, because the effect has happened."""
        try:
            outcome = json.dumps({"result": returned}, allow_nan=False)
        except (TypeError, ValueError):
            outcome = json.dumps({"no_json": type(returned).__name__})
        with current_bus().state_store_access(f"recording the call of {self.name}"):
            self.outcome = _store().finish(_full_name(self.name, self.key), outcome)

    def result(self) -> Any:
        """Parse the stored result, so that the first call returns the same value as later ones.

        Raises UsageError if the function's result was not JSON.
        """
        outcome = json.loads(self.outcome)
        if "no_json" in outcome:
            reason = f"{self.name} ran, but its result of type {outcome['no_json']} cannot be stored as JSON"
            raise UsageError(f"{reason}; return text, numbers, true/false, None, lists and dicts")
        return outcome["result"]


def _delivery_key(name: str) -> str:
    context = current_context()
    if context is None:
        raise UsageError(
            f"{name} was called outside a handler, where there is no delivery to take the key from; "
            "give @idempotent a key=…"
        )
    return context.idempotency_key


def _store(bus: BusRuntime | None = None) -> IdempotencyRecords:
    return current_bus(bus).stores.idempotency_records


def _full_name(name: str, key: str) -> str:
    return f"{escape_separator(name)}:{key}"
