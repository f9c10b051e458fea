"""Primes: the tool that counts prime numbers and reports its progress."""

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
    below: Annotated[int, Field(ge=0, le=10_000_000, description="upper limit, exclusive")],
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
    """Mark the primes from `first` to `end`, exclusive, with the segmented sieve of Eratosthenes."""
    marks = bytearray(b"\1") * (end - first)
    for number in range(first, min(end, 2)):
        marks[number - first] = 0
    for divisor in range(2, math.isqrt(max(end - 1, 0)) + 1):
        start = max(divisor * divisor, -(-first // divisor) * divisor) - first
        marks[start::divisor] = bytes(len(range(start, end - first, divisor)))
    return marks
