"""Simulate: run a seed, and hold it against the promises."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import time_machine

from tests.simulation.promises import broken
from tests.simulation.world import NeverAtRest, Tally, World

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a seed."""

    seed: int
    is_one_step: bool
    tally: Tally
    trace: Sequence[str]
    broken: Sequence[str]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.broken)} promises broken", *self.broken]
        return "\n  ".join([*lines, f"see it: python -m tests.simulation {self.seed}"])


def simulate(seed: int) -> Run:
    """Run a seed to its end; the same seed gives the same run."""
    # Whoever meets a fault logs it; the trace has them all.
    logging.disable(logging.CRITICAL)
    try:
        with time_machine.travel(BEGINNING, tick=False) as clock:
            world = World(seed, clock)
            found = _run(world)
    finally:
        logging.disable(logging.NOTSET)
    return Run(seed, world.is_one_step, world.tally, world.trace, found)


def _run(world: World) -> list[str]:
    try:
        world.run()
    except NeverAtRest as endless:
        return [str(endless)]
    return broken(world)
