"""Simulate: run a seed, and hold it against the promises."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from unittest.mock import patch

import time_machine
from kombu.utils import functional

from petiole.tasks import delivery
from petiole.tasks.consuming import consumer
from petiole.tasks.handling import cancellation, invocation
from petiole.tasks.stores.scripts import Script
from petiole.tasks.transport import acknowledgements, channel, consumer_id, leases, qos, transport
from tests.simulation.promises import broken
from tests.simulation.worker import ChildDied, Jobs
from tests.simulation.world import Broken, Tally, World

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def is_death(error: BaseException) -> bool:
    """Tell whether a process ends: nothing can settle its delivery."""
    return isinstance(error, ChildDied)


class NoThread:
    """Takes the place of what sends acknowledgements or wakes the loop: a simulated worker never sleeps long."""

    def __init__(self, *_: object) -> None:
        pass

    def notify(self) -> None:
        """Do nothing."""

    wake = notify

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a seed."""

    seed: int
    tally: Tally
    trace: Sequence[str]
    broken: Sequence[str]
    plan: str
    """The kind of the fault that this seed was to reach."""
    reached: Counter[str]
    """How often each kind of fault was met."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.broken)} promises broken", *self.broken]
        return "\n  ".join([*lines, f"see it: python -m tests.simulation {self.seed}"])


def simulate(seed: int) -> Run:
    """Run a seed to its end; the same seed gives the same run."""
    # Whoever meets a fault logs it; the trace has them all.
    logging.disable(logging.CRITICAL)
    random.seed(seed)
    try:
        with time_machine.travel(BEGINNING, tick=False) as clock:
            world = World(seed, clock)
            with _one_clock(world):
                found = _run(world)
    finally:
        logging.disable(logging.NOTSET)
    return Run(seed, world.tally, world.trace, found, world.plan.kind, world.injector.reached)


def _run(world: World) -> list[str]:
    try:
        world.run()
    except Broken as error:
        return [str(error)]
    return broken(world)


@contextmanager
def _one_clock(world: World) -> Iterator[None]:
    """Let all clocks be the one that jumps, sleep in it, and tell processes apart by the actor whose turn it is."""
    sleep = time.sleep

    def sleep_a_turn(seconds: float) -> None:
        is_actor = threading.current_thread().name == world.turns.current
        world.turns.pass_on(seconds) if is_actor else sleep(seconds)

    with ExitStack() as stack:
        for owner, name, value in (
            (time, "sleep", sleep_a_turn),
            (time, "monotonic", time.time),
            (functional, "sleep", sleep_a_turn),
            (transport, "sleep", sleep_a_turn),
            (transport, "monotonic", time.time),
            (leases, "_CLOCK", time.CLOCK_REALTIME),
            (leases, "monotonic", time.time),
            (channel, "monotonic", time.time),
            (qos, "monotonic", time.time),
            (acknowledgements, "monotonic", time.time),
            (acknowledgements, "AckSender", NoThread),
            (acknowledgements, "LoopWaker", NoThread),
            # Its thread has no turn; cancelling is no part of the simulation.
            (cancellation._Watch, "_start", lambda _: None),
            (Script, "_execute", lambda script, *words: script._client.execute_command(*words)),
            (world.bus.instrumentation, "emit", world.listen),
            (world.bus.instrumentation, "wants", lambda _: True),
            (consumer_id, "current_process_id", world.process_name),
            (consumer_id, "_numbers", itertools.count(1)),
            (consumer, "JobQueue", Jobs),
            (invocation, "is_shutdown", is_death),
            (delivery, "is_shutdown", is_death),
            (consumer, "_running_tags", lambda simulated: simulated.running_tags()),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield
