"""Errors that share a class are told apart by their code."""

from __future__ import annotations

from collections.abc import Callable

from petiole.events.errors import PetioleError


def has_code(code: str) -> Callable[[BaseException], bool]:
    """Write the check for `pytest.raises(UsageError, check=has_code("unknown_tool"))`."""
    return lambda error: isinstance(error, PetioleError) and error.code == code
