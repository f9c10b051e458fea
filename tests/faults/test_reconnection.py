"""A lost connection repeats no handler that still runs: the new connection takes over what the slots run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import psutil
import pytest

from tests.support.brokers import Server
from tests.support.inside import Inside
from tests.support.polling import wait_until

LASTS_S, LOST, BETWEEN_S = 4.0, 4, 0.7
SLOTS = {"solo": 1, "threads": 4, "prefork": 4}

SLOW = """
import logging
import os
import time
from celery import shared_task
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent

for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.WARNING if os.environ["WAY"] == "direct" else logging.INFO)
notes = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
free, ordered = Agent("free"), Agent("ordered")

def last(what):
    os.write(notes, f"begun {what}\\n".encode())
    time.sleep(float(os.environ["LASTS_S"]))
    os.write(notes, f"ended {what}\\n".encode())

@free.on("input.*")
def answer(event: Event) -> MessageEvent:
    last(f"free-{event.event_id}")
    return event.caused(MessageEvent, event_type="message.free")

@ordered.on("message.first", "message.second", ordered=True)
def follow(event: Event) -> None:
    last(f"ordered-{event.event_type}")

@shared_task(name="foreign.last")
def foreign():
    last("foreign")
"""

PUBLISH = """
import os
from celery import Celery
from petiole.events import MessageEvent, TextContent, TextMessageEvent
from petiole.tasks import publish
publish(TextMessageEvent(stream_id="s", content=TextContent(text="a")))
for topic in ("first", "second"):
    publish(MessageEvent(event_type=f"message.{topic}", stream_id="s"))
Celery(broker=os.environ["PETIOLE_BROKER_URL"]).send_task("foreign.last", queue="free")
"""


class Run:
    """A worker with slow handlers on a server of its own, and what its handlers noted."""

    def __init__(self, node: Any, server: Server) -> None:
        self.node, self.server = node, server
        self.runs = node.home / "runs"
        node.module("slow", SLOW)
        node.environment.update(
            PETIOLE_BROKER_URL=server.url,
            PETIOLE_AGENTS="slow",
            PETIOLE_VISIBILITY_TIMEOUT_S="3",
            RUNS=str(self.runs),
            LASTS_S=str(LASTS_S),
        )

    def notes(self) -> list[str]:
        return self.runs.read_text().splitlines() if self.runs.exists() else []

    def begun(self) -> list[str]:
        return [note for note in self.notes() if note.startswith("begun")]

    def ended(self) -> list[str]:
        return [note for note in self.notes() if note.startswith("ended")]

    def cut(self) -> None:
        """Cut every connection at once, as an operator or a middlebox does."""
        with self.server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.server.kill()
        self.server.start()


@pytest.fixture
def run(node, server):
    return Run(node, server)


LOSSES = {"cut": Run.cut, "restart": Run.restart}


def half_closed_sockets(worker: Any) -> int:
    """Count the sockets of a worker's main process whose other end has closed."""
    sockets = psutil.Process(worker.pid).net_connections()
    return sum(each.status == psutil.CONN_CLOSE_WAIT for each in sockets)


def has_come(moment: float) -> bool:
    return time.monotonic() > moment


def cases() -> Iterator[Any]:
    """List the pools, ways and losses; the ones that find most are the short run."""
    short = {("threads", "celery", "cut"), ("prefork", "direct", "restart")}
    for pool, way, loss in product(SLOTS, ("direct", "celery"), LOSSES):
        marks: Any = () if (pool, way, loss) in short else pytest.mark.long
        yield pytest.param(pool, way, loss, marks=marks, id=f"{pool}-{way}-{loss}")


@pytest.mark.parametrize(("pool", "way", "loss"), [*cases()])
def test_four_lost_connections_under_a_handler_that_lasts_run_it_once(run, loss, pool, way):
    run.node.environment["WAY"] = way
    worker = run.node.worker("only", "--pool", pool, "-c", str(SLOTS[pool]))
    run.node.run(PUBLISH)
    wait_until(lambda: len(run.begun()) == min(SLOTS[pool], 3), 20, run.node.logs)

    for _ in range(LOST):
        LOSSES[loss](run)
        next_at = time.monotonic() + BETWEEN_S
        wait_until(partial(has_come, next_at), 10)
    wait_until(lambda: len(set(run.ended())) == 4, 60, run.notes)
    wait_until(lambda: Inside(run.server.url).leases() == 0, 20, run.node.logs)

    assert Counter(run.begun()).most_common(1)[0][1] == 1, (run.notes(), run.node.logs())
    ordered = [note.split()[0] for note in run.notes() if "ordered" in note]
    assert ordered == ["begun", "ended"] * 2, "two events of one stream never run at once"
    # An idle connection of a pool is replaced when it is used next; what counts is that none stays for each loss.
    wait_until(lambda: half_closed_sockets(worker) <= 1, 10, lambda: half_closed_sockets(worker))
