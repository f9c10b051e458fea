"""The contestants: how each one's node is started, and how it is configured.

A node is what a user starts to serve three subscribers, with both cores of a small machine in use. Each module here is
loaded by the node and by the client of its contestant, in the contestant's own Python, so this file imports none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a node: Python's arguments, and how often it reports to be ready."""

    arguments: tuple[str, ...]
    reports: int = 1


@dataclass(frozen=True, slots=True)
class Contestant:
    """One library in one configuration.

    `crash_node` and `crash_environment` are for the crash: one subscriber, four handlers at once, and what the library
    has for surviving it. `registers` tells that a publisher reaches only subscribers which a node has announced before.
    `ways_to_publish` are methods of its client.
    """

    name: str
    module: str
    python: Literal["petiole", "peers", "traced"]
    configuration: str
    node: tuple[Command, ...]
    crash_node: tuple[Command, ...]
    registers: bool = False
    ways_to_publish: tuple[str, ...] = ("publish",)
    environment: Mapping[str, str] = field(default_factory=dict)
    crash_environment: Mapping[str, str] = field(default_factory=dict)


_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def _celery(app: str, *options: str, number: int = 0) -> Command:
    return Command(("-m", "celery", "-A", app, "worker", "-l", "WARNING", "-n", f"worker-{number}@%h", *options))


def _celeries(count: int, app: str, *options: str) -> tuple[Command, ...]:
    return tuple(_celery(app, *options, *_QUIET, number=number) for number in range(count))


def _petiole(name: str, configuration: str, node: tuple[Command, ...], crash_node: tuple[Command, ...]) -> Contestant:
    return Contestant(
        name=name,
        module="petiole_bus",
        python="petiole",
        configuration=configuration,
        node=node,
        crash_node=crash_node,
        registers=True,
        ways_to_publish=("publish", "publish_many", "publish_delay"),
    )


_PLAIN = "tests.benchmarks.contestants.celery_tasks"
_FASTSTREAM = Command(("-m", "faststream", "run", "tests.benchmarks.contestants.faststream_streams:app"))
_DRAMATIQ = "tests.benchmarks.contestants.dramatiq_actors"


def _huey(instance: str, threads: int) -> Command:
    path = f"tests.benchmarks.contestants.huey_queues.{instance}"
    return Command(("-m", "huey.bin.huey_consumer", path, "-k", "thread", "-w", str(threads), "-q"), reports=threads)


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        _petiole(
            "petiole",
            "as the README starts it: `celery -A workers worker`, which is prefork with a process per core (2 here)",
            (_celery("workers", "-c", "2"),),
            (_celery("workers", "-c", "4"),),
        ),
        _petiole(
            "petiole-solo",
            "two workers of the pool solo",
            _celeries(2, "workers", "-P", "solo"),
            _celeries(4, "workers", "-P", "solo"),
        ),
        _petiole(
            "petiole-threads",
            "two workers of the pool threads, four threads each",
            _celeries(2, "workers", "-P", "threads", "-c", "4"),
            _celeries(2, "workers", "-P", "threads", "-c", "2"),
        ),
        Contestant(
            name="celery",
            module="celery_tasks",
            python="peers",
            configuration="tuned: no results, events, gossip, mingle or heartbeat; prefetch 128; two workers of the "
            "pool solo. Crash: prefork with 4 processes, late acknowledgements, a visibility timeout of 5 s",
            node=_celeries(2, _PLAIN, "-P", "solo"),
            crash_node=_celeries(1, _PLAIN, "-c", "4"),
            crash_environment={"BENCH_RECOVERS": "1"},
        ),
        Contestant(
            name="faststream",
            module="faststream_streams",
            python="peers",
            configuration="Redis streams: one XADD an event, a consumer group a subscriber, max_records=100, typed "
            "handlers, uvloop, two processes. Crash: four processes, each claims messages that are idle for 5 s",
            node=(_FASTSTREAM,) * 2,
            crash_node=(_FASTSTREAM,) * 4,
            registers=True,
            crash_environment={"BENCH_RECOVERS": "1"},
        ),
        Contestant(
            name="huey",
            module="huey_queues",
            python="peers",
            configuration="a RedisHuey and a consumer with two threads for each subscriber, no results; requests on "
            "another, with notify_result. Crash: one consumer with four threads",
            node=(*(_huey(f"huey_{number}", 2) for number in range(3)), _huey("huey_rpc", 2)),
            crash_node=(_huey("huey_0", 4),),
        ),
        Contestant(
            name="dramatiq",
            module="dramatiq_actors",
            python="peers",
            configuration="an actor on a queue of its own for each subscriber, two processes with eight threads each; "
            "results for requests only. Crash: two processes with two threads each",
            node=(Command(("-m", "dramatiq", _DRAMATIQ, "-p", "2", "-t", "8"), reports=2),),
            crash_node=(Command(("-m", "dramatiq", _DRAMATIQ, "-p", "2", "-t", "2"), reports=2),),
        ),
    )
}
