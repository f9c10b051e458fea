"""Measure the console: `python -m tests.benchmarks.console [--quick] [pages] [busy] [rate]`.

    pages    100,000 dead letters, 1,000 agents and a conversation of 5,000 events: the slowest of five reads of each
             page, and the resident memory of the console's process before and after
    busy     the slowest of five reads of each page while 2,000 events a second are published and handled; and events
             handled per second, and processor time of the broker per event, without and with a browser on the page Live
    rate     deliveries per second of a worker with a full queue, and processor time of worker and broker per delivery,
             without and with a browser on the page Live

A busy machine makes single figures worthless, so turns without and with a browser are short and come in pairs; the
result is the median of the pairs' ratios. Processor time depends less on what else runs. The load is printed, too.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import psutil
import redis
from celery import Celery

from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import EventBus
from petiole.tasks.operations.metrics import read_queues
from petiole.tasks.settings import Settings
from tests.benchmarks.machine import load
from tests.benchmarks.servers import fresh_server
from tests.support.polling import wait_until
from tests.support.processes import ROOT, Node
from tests.support.sizes import CONVERSATION_PAGES, LARGE_SYSTEM_PAGES, fill_large_system

READS = 5
AGENT = """
from petiole import Agent

agent = Agent("counter")

@agent.on("input.message.received")
def count(event):
    pass
"""

PUBLISHER = """
import time
from petiole import publish_many
from petiole.events import TextContent, TextMessageEvent

text = TextContent(text="x")

began, published = time.monotonic(), 0
while True:
    publish_many(TextMessageEvent(stream_id=f"s{number}", content=text) for number in range(200))
    published += 200
    time.sleep(max(0, began + published / 2_000 - time.monotonic()))
"""


def write(line: str) -> None:
    """Write a line of the report."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(*, quick: bool, parts: Collection[str]) -> None:
    write(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {load()}")
    if "pages" in parts:
        measure_pages((2_000, 200, 1_000) if quick else (100_000, 1_000, 5_000))
    if "busy" in parts:
        measure_busy(seconds=3 if quick else 5, pairs=2 if quick else 12)
    if "rate" in parts:
        measure_rate(events=1_000 if quick else 3_000, pairs=2 if quick else 12)
    write(f"load at the end {load()}")


def measure_pages(size: tuple[int, int, int]) -> None:
    """Print the slowest read of each page, and the memory."""
    with fresh_server() as url, a_node(url) as node:
        bus = EventBus(Celery("big", broker=url), settings=Settings(home=node.home, broker_url=url))
        fill_large_system(bus, *size)
        with a_console(node) as (address, process), httpx2.Client(base_url=address, timeout=120) as visitor:
            before = process.memory_info().rss
            began = time.monotonic()
            while "still to be read" in visitor.get("/failures").text:
                pass
            write(f"{size[0]:,} letters, {size[1]:,} agents, {size[2]:,} events in a conversation")
            write(f"first reading of all letters: {time.monotonic() - began:.1f} s")
            for page in LARGE_SYSTEM_PAGES + CONVERSATION_PAGES:
                times = [read(visitor, page) for _ in range(READS)]
                write(f"{page:<60} median {statistics.median(times):.3f} s, slowest {max(times):.3f} s")
            write(f"memory {before / 1e6:.0f} MB before, {process.memory_info().rss / 1e6:.0f} MB after")


def read(visitor: httpx2.Client, page: str) -> float:
    """Read a page and return how long it took, in s."""
    began = time.monotonic()
    visitor.get(page).raise_for_status()
    return time.monotonic() - began


def measure_busy(*, seconds: float, pairs: int) -> None:
    """Print how fast pages are at 2,000 events a second, and what a browser costs the backbone then."""
    with fresh_server() as url, a_node(url) as node, a_console(node) as (address, _):
        bus = EventBus(Celery("busy", broker=url), settings=Settings(home=node.home, broker_url=url))
        node.module("counter", AGENT)
        node.worker("counter")
        node.module("publisher", PUBLISHER)
        node.start("publisher")
        wait_until(lambda: bool(bus.stores.history.read_stream("s1")), 60)
        with httpx2.Client(base_url=address, timeout=120) as visitor:
            for page in ("/", "/board", "/failures", "/conversations", "/conversation?id=s1", "/catalog", "/why"):
                times = [read(visitor, page) for _ in range(READS)]
                write(f"{page:<60} median {statistics.median(times):.3f} s, slowest {max(times):.3f} s")
        print_pairs(address, pairs, lambda: handle(bus, seconds))


def measure_rate(*, events: int, pairs: int) -> None:
    """Print how fast a worker drains a queue without and with a browser."""
    with fresh_server() as url, a_node(url) as node, a_console(node) as (address, _):
        bus = EventBus(Celery("rate", broker=url), settings=Settings(home=node.home, broker_url=url))
        node.module("counter", AGENT)
        stop(node.worker("counter"))  # subscribes
        drain(node, bus, events)  # warms up
        print_pairs(address, pairs, lambda: drain(node, bus, events))


def print_pairs(address: str, pairs: int, take_turn: Callable[[], Turn]) -> None:
    """Take a turn without and one with a browser, in changing order, so often; print the ratios of the pairs."""
    turns: dict[bool, list[Turn]] = {False: [], True: []}
    for number in range(pairs):
        for is_open in (False, True) if number % 2 else (True, False):
            with a_browser(address) if is_open else nullcontext():
                turns[is_open].append(take_turn())
    for title, unit in (("rate_hz", "events handled/s"), ("cpu_us", "us of processor time per event")):
        without, with_browser = ([getattr(each, title) for each in turns[is_open]] for is_open in (False, True))
        ratios = sorted(after / before for before, after in zip(without, with_browser, strict=True))
        write(f"{unit}: without a browser {without}, with one on Live {with_browser}")
        write(
            f"RATIO of {unit}, with to without a browser: {statistics.median(ratios):.3f} "
            f"(median of {pairs} pairs, from {ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """How many events were handled per second, and the processor time of each."""

    rate_hz: float
    cpu_us: float


def handle(bus: EventBus, seconds: float) -> Turn:
    """Measure what is handled of the events that are published meanwhile, and the broker's time."""
    handled, spent_s, began = bus.stores.history.count_recorded() - waiting(bus), server_s(bus), time.monotonic()
    time.sleep(seconds)
    took, spent_s = time.monotonic() - began, server_s(bus) - spent_s
    count = bus.stores.history.count_recorded() - waiting(bus) - handled
    return Turn(round(count / took, 1), round(spent_s / count * 1e6, 1))


def drain(node: Node, bus: EventBus, count: int) -> Turn:
    """Publish events while no worker runs, start one, and measure all deliveries but the first."""
    for start in range(0, count, 500):
        bus.publish_many(
            TextMessageEvent(stream_id=f"s{number}", content=TextContent(text="x"))
            for number in range(start, start + 500)
        )
    worker = node.worker("counter")
    wait_until(lambda: waiting(bus) < count * 0.95, 120)
    left, began, spent_s = waiting(bus), time.monotonic(), processor_s(bus, worker.pid)
    wait_until(lambda: not waiting(bus), 300)
    took, spent_s = time.monotonic() - began, processor_s(bus, worker.pid) - spent_s
    stop(worker)
    return Turn(round(left / took, 1), round(spent_s / left * 1e6, 1))


def stop(worker: subprocess.Popen[bytes]) -> None:
    """Let a worker end."""
    worker.terminate()
    worker.wait(60)


def processor_s(bus: EventBus, worker_pid: int) -> float:
    """Return the processor time that the worker and the broker have used."""
    worker = psutil.Process(worker_pid).cpu_times()
    return worker.user + worker.system + server_s(bus)


def server_s(bus: EventBus) -> float:
    """Return the processor time that the broker has used."""
    with redis.Redis.from_url(bus.broker_url or "") as client:
        server = client.info("cpu")
    return float(server["used_cpu_user"]) + float(server["used_cpu_sys"])


def waiting(bus: EventBus) -> int:
    """Return how many deliveries wait for the worker, or are in its hands."""
    queues = read_queues(bus)
    return queues.depth["counter"] + queues.in_flight["counter"]


@contextmanager
def a_node(url: str) -> Iterator[Node]:
    """Make a system with a broker; its processes end with the block."""
    with tempfile.TemporaryDirectory(prefix="bench-console-") as folder:
        home = Path(folder)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))
        }
        environment |= {"PETIOLE_BROKER_URL": url, "PETIOLE_HOME": folder, "PETIOLE_AGENTS": "counter"}
        environment |= {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)]), "PYTHONUNBUFFERED": "1"}
        node = Node(environment, home, [])
        node.module("counter", AGENT)
        try:
            yield node
        finally:
            for process in node.processes:
                process.kill()
                process.wait()


@contextmanager
def a_console(node: Node) -> Iterator[tuple[str, psutil.Process]]:
    """Start a console, and yield its address and its process."""
    process = node.start("petiole.workers.cli", "console", "--port", "0")
    wait_until(lambda: "console: http" in node.logs(), 60, node.logs)
    found = re.search(r"console: (http\S+)/", node.logs())
    assert found is not None
    yield found[1], psutil.Process(process.pid)


@contextmanager
def a_browser(address: str) -> Iterator[None]:
    """Do what a browser on the page Live does: follow the events, and read the board every two seconds."""
    closed = threading.Event()

    def read_board() -> None:
        with httpx2.Client(base_url=address, timeout=60) as visitor:
            while not closed.wait(2):
                visitor.get("/board")

    def follow() -> None:
        # The console ends before its last event.
        with suppress(httpx2.HTTPError), httpx2.stream("GET", f"{address}/events", timeout=60) as events:
            for _ in events.iter_lines():
                if closed.is_set():
                    return

    threads = [threading.Thread(target=each, daemon=True) for each in (read_board, follow)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        closed.set()
        threads[0].join()


if __name__ == "__main__":
    main(quick="--quick" in sys.argv, parts={"pages", "busy", "rate"} & {*sys.argv} or {"pages", "busy", "rate"})
