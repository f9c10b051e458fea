"""Experiments: damage to the system of the demo, and the tally of its recovery.

An experiment publishes events in a stream of its own and damages something. Its tally is counted in the history:

    published        the broker confirmed so many
    handled          of so many the result was published
    dead-lettered    so many were given up, and wait for an operator
    lost             so many had no outcome GIVE_UP_S after the last one was published
    repeated         so many results were published a second time
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.content import TextContent
from petiole.events.errors import PetioleError, UsageError
from petiole.events.event import Event
from petiole.events.texts import error_text
from petiole.tasks.operations.metrics import read_queues
from petiole.tasks.publication import publish_many
from petiole.workers.console.demo_agents import DemoOrder, DemoOrderPlacedEvent

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores.history import RecordedEvent
    from petiole.workers.console.breakable import Breakable

GIVE_UP_S: Final = 120.0
MODEL_PAUSE_S: Final = 8.0
MAX_EXPERIMENTS: Final = 12
_QUEUE = "kitchen"
_POLL_S = 0.2
_START_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of the events of an experiment."""

    published: int
    handled: int
    dead_lettered: int
    repeated: int
    lost: int = 0

    @property
    def waiting(self) -> int:
        """How many have no outcome yet."""
        return max(0, self.published - self.handled - self.dead_lettered - self.lost)


@dataclass(slots=True)
class Experiment:
    """One damage, what happened since, and its tally."""

    title: str
    stream_id: str = field(default_factory=lambda: f"break-it-{uuid4().hex[:8]}")
    published: int = 0
    tally: Tally = Tally(0, 0, 0, 0)
    lines: list[tuple[datetime, str]] = field(default_factory=list)
    waiting: deque[float] = field(default_factory=lambda: deque(maxlen=120))
    is_done: bool = False
    error: str = ""
    _damaged_at: float | None = None
    _gives_up_at: float = float("inf")

    @property
    def recovered(self) -> bool:
        """Whether every event has its outcome."""
        return self.is_done and not self.error and not self.tally.lost

    def record(self, text: str) -> None:
        """Add a line with the time."""
        self.lines.append((datetime.now(UTC), text))

    def damage(self, text: str) -> None:
        """Record what was damaged; recovery is timed from here."""
        self._damaged_at = time.monotonic()
        self.record(text)

    def expect_outcomes(self) -> None:
        """Begin to wait for the outcomes: everything is published."""
        self._gives_up_at = time.monotonic() + GIVE_UP_S

    def update(self, recorded: Sequence[RecordedEvent]) -> None:
        """Count the outcomes in the events of the stream."""
        tally = count_outcomes(recorded, self.published)
        is_late = time.monotonic() > self._gives_up_at
        self.tally = Tally(
            tally.published, tally.handled, tally.dead_lettered, tally.repeated, tally.waiting if is_late else 0
        )
        self.waiting.append(float(self.tally.waiting))
        if self._gives_up_at < float("inf") and not self.tally.waiting:
            seconds = time.monotonic() - (self._damaged_at or time.monotonic())
            self.record(f"every event has its outcome, {seconds:.1f} s after the damage")
            self.is_done = True


def count_outcomes(recorded: Sequence[RecordedEvent], published: int) -> Tally:
    """Count outcomes by flow: each event of an experiment begins one."""
    results = [str(each.attributes["correlation_id"]) for each in recorded if _is_result(each)]
    letters = {str(each.attributes["correlation_id"]) for each in recorded if each.topic == "error.dead_lettered"}
    handled = set(results)
    return Tally(published, len(handled), len(letters - handled), len(results) - len(handled))


def _is_result(recorded: RecordedEvent) -> bool:
    """Return whether an event is the one result of an order or a question; a suggestion answers nothing."""
    content = recorded.attributes.get("content")
    is_answer = isinstance(content, Mapping) and content.get("kind", "answer") == "answer"
    return recorded.topic == "demo.order.served" or (recorded.topic == "output.message.sent" and is_answer)


class Experiments:
    """The experiments of this process: one at a time, each in a thread of its own."""

    def __init__(self, bus: BusRuntime, system: Breakable) -> None:
        self._bus = bus
        self.system = system
        self._lock = threading.Lock()
        self._all: deque[Experiment] = deque(maxlen=MAX_EXPERIMENTS)

    def newest_first(self) -> list[Experiment]:
        """Return the last experiments."""
        return list(reversed(self._all))

    def start(self, kind: str) -> Experiment:
        """Start an experiment. Raises UsageError while another one runs, or if there is none of this kind."""
        if kind not in _EXPERIMENTS:
            raise UsageError(f"there is no experiment {kind!r}; there are {', '.join(_EXPERIMENTS)}")
        title, run = _EXPERIMENTS[kind]
        with self._lock:
            if any(not each.is_done for each in self._all):
                raise UsageError("another experiment still runs; wait for its outcome")
            experiment = Experiment(title)
            self._all.append(experiment)
        threading.Thread(target=self._run, args=(experiment, run), name="console-break-it", daemon=True).start()
        return experiment

    def _run(self, experiment: Experiment, run: Callable[[Experiments, Experiment], None]) -> None:
        try:
            run(self, experiment)
            experiment.expect_outcomes()
            while not experiment.is_done:
                time.sleep(_POLL_S)
                self.read(experiment)
        except (PetioleError, RedisError, OperationalError) as error:
            log.warning("experiment.failed", extra={"error": error_text(error)})
            experiment.error, experiment.is_done = error_text(error), True

    def read(self, experiment: Experiment) -> None:
        """Read how far an experiment is."""
        experiment.update(self._bus.stores.history.read_stream(experiment.stream_id))

    def publish(self, experiment: Experiment, events: Sequence[Event]) -> None:
        """Publish the events of an experiment."""
        publish_many(self._bus, events)
        experiment.published += len(events)
        experiment.record(f"{len(events)} events published")

    def in_flight(self) -> int:
        """Return how many orders the workers have in their hands."""
        return read_queues(self._bus).in_flight.get(_QUEUE, 0)


def _kill_a_worker(experiments: Experiments, experiment: Experiment) -> None:
    experiments.publish(experiment, _orders(experiment, 40))
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (experiment.tally.handled and experiments.in_flight()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        experiments.read(experiment)
    in_flight = experiments.in_flight()
    killed = experiments.system.kill_worker()
    experiment.damage(f"kill -9 of {killed.name}, process {killed.pid}, while {in_flight} orders were being handled")
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        worker = next(each for each in experiments.system.list_workers() if each.name == killed.name)
        if worker.is_alive and worker.restarts > killed.restarts:
            experiment.record(f"{worker.name} was started again as process {worker.pid}")
            return
        time.sleep(_POLL_S)
        experiments.read(experiment)


def _poison_an_event(experiments: Experiments, experiment: Experiment) -> None:
    experiment.damage("one of five orders is poisoned: its handler fails at every attempt")
    poisoned = [DemoOrderPlacedEvent(stream_id=experiment.stream_id, content=DemoOrder(is_poisoned=True))]
    experiments.publish(experiment, [*_orders(experiment, 2), *poisoned, *_orders(experiment, 2)])


def _stop_the_model(experiments: Experiments, experiment: Experiment) -> None:
    experiments.system.stop_model()
    experiment.damage("the model is stopped")
    try:
        texts = ("Hello, can you help me?", "What is 12 * 7?", "What is 3 + 4?", "What is the square root of 81?")
        messages = [TextMessageEvent(stream_id=experiment.stream_id, content=TextContent(text=text)) for text in texts]
        experiments.publish(experiment, messages)
        until = time.monotonic() + MODEL_PAUSE_S
        while time.monotonic() < until:
            time.sleep(_POLL_S)
            experiments.read(experiment)
    finally:
        experiments.system.start_model()
    experiment.record("the model is back; its breaker stays open until a probe succeeds, at most 30 s from now")


def _fill_a_queue(experiments: Experiments, experiment: Experiment) -> None:
    experiment.damage("a burst, far more than the workers can handle at once")
    experiments.publish(experiment, _orders(experiment, 500, work_s=0.03))


def _orders(experiment: Experiment, count: int, work_s: float = 0.3) -> list[Event]:
    content = DemoOrder(work_s=work_s)
    return [DemoOrderPlacedEvent(stream_id=experiment.stream_id, content=content) for _ in range(count)]


_EXPERIMENTS: Mapping[str, tuple[str, Callable[[Experiments, Experiment], None]]] = {
    "worker": ("Kill a worker", _kill_a_worker),
    "poison": ("Poison an event", _poison_an_event),
    "model": ("Stop the model", _stop_the_model),
    "queue": ("Fill a queue", _fill_a_queue),
}
