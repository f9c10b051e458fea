"""Check the arguments of public functions where they are called, so that a wrong one is refused by its name.

    @checks_arguments(session_id=StreamId, reason=EndReason)
    def end_session(session_id: str, *, reason: EndReason = "closed") -> bool: ...

The types are pydantic's, strict: True is not 1, bytes are not text. An argument with its default value is not checked.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from petiole.events.validation import invalid_argument

P = ParamSpec("P")
R = TypeVar("R")

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def checks_arguments(**types: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the named arguments of a function before each call, and of a generator before it is iterated.

    The decorated function raises UsageError (invalid_option).
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        owner = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in types and value is not signature.parameters[name].default:
                    check_argument(f"{owner}.{name}", value, types[name])
            return function(*args, **kwargs)

        return call

    return decorate


def check_argument(name: str, value: object, type_: Any) -> None:
    """Check one value. Raises UsageError (invalid_option)."""
    try:
        _adapter(type_).validate_python(value)
    except ValidationError as error:
        raise invalid_argument(name, error) from error


@functools.cache
def instance_of(class_: type[object]) -> Any:
    """Return the type of a class's instances, for `checks_arguments`. Pydantic would also take their fields."""

    def check(value: object) -> object:
        if not isinstance(value, class_):
            raise ValueError(f"give an instance of {class_.__name__}")  # noqa: TRY004 - pydantic converts only ValueError
        return value

    return Annotated[Any, AfterValidator(check)]


@functools.cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    # When it is first used: building it takes longer than importing this module.
    return TypeAdapter(type_, config=_STRICT)
