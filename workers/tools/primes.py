"""Primes: counts them, and tells on the way how far it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import ToolContext, ToolOutput

PROGRESS_STEPS = 5


@tool
def primes(
    context: ToolContext,
    below: Annotated[int, Field(ge=0, le=10_000_000, description="the first number that is not looked at")],
) -> ToolOutput:
    """Count the prime numbers below a number; reports its progress five times."""
    count = 0
    for done, (first, end) in enumerate(_segments(below), start=1):
        count += sum(_sieve(first, end))
        context.report(100 * done / PROGRESS_STEPS, f"{count} primes below {end}")
    return ToolOutput(count, f"there are {count} primes below {below}")


def _segments(below: int) -> Iterator[tuple[int, int]]:
    return pairwise(below * part // PROGRESS_STEPS for part in range(PROGRESS_STEPS + 1))


def _sieve(first: int, end: int) -> bytearray:
    """Mark the primes from `first` up to, not including, `end`: the sieve of Eratosthenes on one stretch."""
    marks = bytearray(b"\1") * (end - first)
    for number in range(first, min(end, 2)):
        marks[number - first] = 0
    for divisor in range(2, math.isqrt(max(end - 1, 0)) + 1):
        struck = max(divisor * divisor, -(-first // divisor) * divisor) - first
        marks[struck::divisor] = bytes(len(range(struck, end - first, divisor)))
    return marks
