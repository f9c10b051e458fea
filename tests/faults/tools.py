"""What fault tests share: a broker to ill-treat, processes that hold still, publishers that count, and the tally."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import Retryable
from petiole.tasks.celery import EventApp
from petiole.tasks.publication import Publish
from petiole.tasks.transport import ours
from petiole.workers.process import embedded_broker

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
"""Whether runs are as long as `make faults` has them."""

AGENTS = """
import os, time
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, Context

runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def an_agent(name, **options):
    agent = Agent(name)

    @agent.on("input.*", **options)
    def answer(event: Event, context: Context) -> MessageEvent:
        os.write(runs, context.delivery_id.encode() + b"\\n")
        return event.caused(MessageEvent, event_type=f"message.{name}")

    return agent

one, two = an_agent("one"), an_agent("two", ordered=True)
"""
"""Two agents, each of which notes its runs in a file that no fault touches, and answers each event once."""

_AFTER_AN_ERROR_S = 0.1

ANSWERS = ("message.one", "message.two")


class Server:
    """A broker of one's own that is stopped, killed, frozen and filled; what it acknowledged is on disk."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = ""

    def start(self) -> None:
        """Start it, with the data and the address that it had."""
        url = embedded_broker.start(self.home).url
        assert url == (self.url or url)
        self.url = url
        with self.client() as client:
            client.config_set("appendfsync", "always")

    def stop(self) -> None:
        """Let it end in order. Safe to repeat."""
        embedded_broker.stop(self.home)

    def kill(self) -> None:
        """End it at once."""
        process = self._process()
        process.kill()
        process.wait(timeout=10)

    def client(self) -> redis.Redis:
        """Connect past everything."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hold still, with its connections open, for as long as the block."""
        with holding_still(self._process().pid):
            yield

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let it have no memory left, for as long as the block."""
        with self.client() as client:
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)

    def _process(self) -> psutil.Process:
        return psutil.Process(int((self.home / "valkey" / "valkey.pid").read_text()))


@contextmanager
def holding_still(*pids: int) -> Iterator[None]:
    """Stop processes where they are (SIGSTOP), and let them go on after the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def an_app(url: str) -> EventApp:
    """Make a publisher's app."""
    app = EventApp("faults", set_as_current=False)
    app.conf.update(broker_url=ours(url), result_backend=url)
    app.adopt(Publish)
    return app


def an_event(number: int = 0) -> TextMessageEvent:
    """Make an event of one of seven streams."""
    return TextMessageEvent(stream_id=f"s{number % 7}", content=TextContent(text=f"message {number}"))


@dataclass
class Tally:
    """What was published and what became of it, counted by what stands in the history."""

    acknowledged: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Errors that publishers got, by class."""
    runs: Path | None = None

    def emitted(self, app: EventApp) -> Counter[tuple[str, str]]:
        """Count the answers in the history, by topic and the event that was answered."""
        recorded = app.stores.history.since(count=1_000_000)
        return Counter((each.topic, str(each.attributes["causation_id"])) for each in recorded if each.topic in ANSWERS)

    def is_complete(self, app: EventApp) -> bool:
        """Tell whether everything that was acknowledged has all its answers."""
        return not self.missing(app)

    def missing(self, app: EventApp) -> list[tuple[str, str]]:
        """List the answers that acknowledged events lack."""
        emitted = self.emitted(app)
        return [(topic, event) for event in self.acknowledged for topic in ANSWERS if not emitted[topic, event]]

    def doubled(self, app: EventApp) -> int:
        """Count the answers that were given twice."""
        return sum(count - 1 for count in self.emitted(app).values())

    def line(self, app: EventApp) -> str:
        """Tell all of it in one line."""
        runs = Counter(self.runs.read_text().split()) if self.runs and self.runs.exists() else Counter()
        return (
            f"acknowledged {len(self.acknowledged)}, refused {self.refused.total()} {dict(self.refused)}, "
            f"handled {runs.total()}, run again {runs.total() - len(runs)}, lost {len(self.missing(app))}, "
            f"duplicated effects {self.doubled(app)}"
        )


class Publisher:
    """A thread that publishes one event after another and counts acknowledgements and errors."""

    def __init__(self, url: str, tally: Tally, *, by: str = "run", pause_s: float = 0.01) -> None:
        self._app = an_app(url)
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
        self._app.close()
        if self.unexpected is not None:
            raise self.unexpected

    def _publish(self) -> None:
        publish = self._app.tasks[Publish.name]
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
                self._tally.acknowledged.append(event.event_id)
