"""Traffic: two agents, publishers that count, and the count of what became of their events."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import Retryable
from petiole.tasks import EventBus
from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.inside import Inside

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
"""Whether runs are as long as `make faults` has them."""

AGENTS = """
import os, time
from pathlib import Path
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, Context

runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def an_agent(name, **options):
    agent = Agent(name)

    @agent.on("input.*", **options)
    def answer(event: Event, context: Context) -> MessageEvent:
        os.write(runs, context.delivery_id.encode() + b"\\n")
        while Path("hold").exists():
            time.sleep(0.05)
        return event.caused(MessageEvent, event_type=f"message.{name}")

    return agent

one, two = an_agent("one"), an_agent("two", ordered=True)
"""
"""Two agents, each of which notes its runs in a file that no fault touches, and answers each event once.

While the file `hold` exists, no run ends.
"""

_AFTER_AN_ERROR_S = 0.1

ANSWERS = ("message.one", "message.two")


def an_event(number: int = 0) -> TextMessageEvent:
    """Make an event of one of seven streams."""
    return TextMessageEvent(stream_id=f"s{number % 7}", content=TextContent(text=f"message {number}"))


@dataclass
class Tally:
    """What was published and what became of it, counted by what stands in the history."""

    acknowledged: list[str] = field(default_factory=list)
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    """By event, in s of the monotonic clock."""
    refused: Counter[str] = field(default_factory=Counter)
    """Errors that publishers got, by class."""
    runs: Path | None = None

    def emitted(self, bus: EventBus) -> Counter[tuple[str, str]]:
        """Count the answers in the history, by topic and the event that was answered."""
        answers = [each for each in Inside(bus).history() if each["event_type"] in ANSWERS]
        return Counter((each["event_type"], each["causation_id"]) for each in answers)

    def is_complete(self, bus: EventBus) -> bool:
        """Tell whether everything that was acknowledged has all its answers."""
        return not self.missing(bus)

    def missing(self, bus: EventBus) -> list[tuple[str, str]]:
        """List the answers that acknowledged events lack."""
        emitted = self.emitted(bus)
        return [(topic, event) for event in self.acknowledged for topic in ANSWERS if not emitted[topic, event]]

    def doubled(self, bus: EventBus) -> int:
        """Count the answers that were given twice."""
        return sum(count - 1 for count in self.emitted(bus).values())

    def line(self, bus: EventBus) -> str:
        """Tell all of it in one line."""
        runs = Counter(self.runs.read_text().split()) if self.runs and self.runs.exists() else Counter()
        return (
            f"acknowledged {len(self.acknowledged)}, refused {self.refused.total()} {dict(self.refused)}, "
            f"handled {runs.total()}, run again {runs.total() - len(runs)}, lost {len(self.missing(bus))}, "
            f"duplicated effects {self.doubled(bus)}"
        )


class Publisher:
    """A thread that publishes one event after another and counts acknowledgements and errors."""

    def __init__(self, url: str, tally: Tally, *, by: str = "run", pause_s: float = 0.01, **settings: Any) -> None:
        self._bus = a_bus(url, **settings)
        self._tally = tally
        self._by = by
        self._pause_s = pause_s
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self.unexpected: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the publisher hangs"
        self._bus.close()
        if self.unexpected is not None:
            raise self.unexpected

    def _publish(self) -> None:
        publish = self._bus.app.tasks[PublishTask.name]
        call = publish.run if self._by == "run" else publish.delay
        number = 0
        while not self._ends.wait(self._pause_s):
            number += 1
            event = an_event(number)
            try:
                call(event)
            except Retryable as error:
                self._tally.refused[type(error).__name__] += 1
                self._ends.wait(_AFTER_AN_ERROR_S)
            except BaseException as error:  # noqa: BLE001 - told when the publisher ends
                self.unexpected = error
                return
            else:
                self._tally.acknowledged_at[event.event_id] = time.monotonic()
                self._tally.acknowledged.append(event.event_id)
