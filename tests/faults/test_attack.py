"""Half an hour of everything at once, at random: `make faults`. PETIOLE_ATTACK_S sets how long, _SEED which faults.

Workers of every pool behind three Sentinels are killed, stopped and told to end; their clocks jump by an hour; the
server refuses, forgets, and another takes its place; handlers end in every way that Python knows. In rounds: in each
the server is emptied once, among the faults, and it ends when all is calm and each later event is accounted for.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import RedisError

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import Retryable
from petiole.tasks.publication import PublishTask
from petiole.workers.observability.liveness import find_liveness_problem
from tests.support import server_faults
from tests.support.apps import a_bus
from tests.support.endings import ASYNC_ENDS, ENDS, MODULE
from tests.support.inside import Inside
from tests.support.polling import wait_until
from tests.support.processes import holding_still
from tests.support.sentinels import Pair, paired_servers
from tests.support.traffic import IS_FULL

pytest.importorskip("gevent", reason="gevent is not installed: make dev")

SEED = int(os.environ.get("PETIOLE_ATTACK_SEED", random.randrange(1_000_000)))
LASTS_S = float(os.environ.get("PETIOLE_ATTACK_S", "1800" if IS_FULL else "60"))
ROUND_S = 90.0
STARTED_S = 15.0
PROBED_S = 20.0
CALM_S = 120.0
"""How long nothing may be settled in the calm before what is left counts as lost."""

POOLS = {"solo": 1, "threads": 4, "gevent": 8, "prefork": 2}
SUBSCRIPTIONS = {"one.answer": ENDS, "two.answer": {kind: ASYNC_ENDS[f"async_{kind}"] for kind in ENDS}}

AGENTS = """
import faulthandler
import os
import random
import signal
import threading
import time
from datetime import timedelta

import time_machine
from endings import ENDS
from petiole.events import MessageEvent, TextMessageEvent
from petiole.tasks import Agent, RetryPolicy

one, two = Agent("one"), Agent("two")
RETRY = RetryPolicy(max_attempts=2, base=0.05, cap=1)

def jump():
    # The clock of this process jumps where the test says so.
    said = ""
    while True:
        time.sleep(0.2)
        try:
            now = open("clock").read()
        except OSError:
            continue
        if now != said:
            said = now
            time_machine.travel(timedelta(hours=int(now or 0)), tick=True).start()

def watch():
    threading.Thread(target=jump, daemon=True).start()

watch()
os.register_at_fork(after_in_child=watch)
faulthandler.register(signal.SIGUSR2, all_threads=True)

def end(event):
    word, _, kind = event.content.text.partition(" ")
    if word == "end":
        ENDS[kind]()

@one.on("input.*", retry=RETRY)
def answer(event: TextMessageEvent) -> MessageEvent:
    time.sleep(random.choice([0, 0, 0.02, 0.3]))
    end(event)
    return event.caused(MessageEvent, event_type="message.one")

async def answer_async(event: TextMessageEvent) -> MessageEvent:
    end(event)
    return event.caused(MessageEvent, event_type="message.two")

answer_async.__name__ = answer_async.__qualname__ = "answer"
two.on("input.*", ordered=True, retry=RETRY)(answer_async)
"""


@dataclass
class Tally:
    """What was published, and what became of it."""

    acknowledged: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    handled: int = 0
    letters: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wiped: int = 0
    """How many were published before the server was emptied, and not handled."""
    repeated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Dead letters with another cause than the handler's."""
    stalls: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"acknowledged {self.acknowledged}, refused {self.refused.total()} {dict(self.refused)}, "
            f"handled {self.handled}, dead letters with true causes {self.letters.total()} of {len(self.letters)} "
            f"kinds, lost {len(self.lost)}, wiped {self.wiped}, repeated effects {len(self.repeated)}, "
            f"wrong letters {len(self.wrong)}, stalls {len(self.stalls)}, leaks {len(self.leaks)}; "
            f"faults: {dict(self.faults)}"
        )

    @property
    def broken(self) -> list[str]:
        return [*self.lost, *self.repeated, *self.wrong, *self.stalls, *self.leaks]


class Publisher(threading.Thread):
    """Publishes until it is told to end, and notes what was acknowledged, with the text of each event."""

    def __init__(self, url: str, tally: Tally, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._bus, self._tally, self._rng = a_bus(url), tally, rng
        self.acknowledged: list[tuple[str, str, float]] = []
        """Event id, text, and when its publish began."""
        self.ends = threading.Event()

    def run(self) -> None:
        """Publish."""
        publish = self._bus.app.tasks[PublishTask.name]
        while not self.ends.wait(self._rng.uniform(0.01, 0.12)):
            text = f"end {self._rng.choice(list(ENDS))}" if self._rng.random() < 0.25 else "plain"
            event = TextMessageEvent(stream_id=f"s{self._rng.randrange(9)}", content=TextContent(text=text))
            began = time.monotonic()
            try:
                self._rng.choice([publish.run, publish.delay])(event)
            except Retryable as error:
                self._tally.refused[type(error).__name__] += 1
            else:
                self.acknowledged.append((event.event_id, text, began))
        self._bus.close()


class Attack:
    """The system under attack, and who attacks it."""

    def __init__(self, system: Any, pair: Pair, rng: random.Random) -> None:
        self._system, self._pair, self._rng = system, pair, rng
        self.tally = Tally()
        self._workers: dict[str, tuple[Any, float]] = {}
        for _ in range(2):
            self._start_worker()
        with self._primary() as client:
            # Before, events are for nobody.
            wait_until(lambda: len(Inside(client).subscriptions()) == len(SUBSCRIPTIONS), 30, system.logs)

    def round(self) -> None:
        """Attack, empty the server, attack for a while, and account for each event once all is calm."""
        publishers = [Publisher(self._pair.url, self.tally, random.Random(self._rng.random())) for _ in range(2)]
        for publisher in publishers:
            publisher.start()
        self._wait(self._rng.uniform(1, 3))
        for _ in range(self._rng.randrange(6)):
            self._attack()
        with self._primary() as client:
            server_faults.forget_everything(client)
        self.tally.faults["FLUSHALL"] += 1
        emptied_at = time.monotonic()
        while time.monotonic() - emptied_at < ROUND_S:
            self._attack()
        for publisher in publishers:
            publisher.ends.set()
        for publisher in publishers:
            publisher.join(120)
            assert not publisher.is_alive(), "a publisher hangs"
        published = [each for publisher in publishers for each in publisher.acknowledged]
        wiped = {event_id for event_id, _, began in published if began < emptied_at}
        self._account({event_id: text for event_id, text, _ in published}, wiped)

    def _attack(self) -> None:
        fault = self._rng.choice(self._faults())
        self.tally.faults[fault.__name__.strip("_")] += 1
        fault()
        self._look()
        self._wait(self._rng.uniform(0.2, 2))

    def _faults(self) -> list[Callable[[], None]]:
        on_workers = [self._kill, self._kill, self._kill_child, self._terminate, self._quit, self._stand_still]
        on_servers = [self._refuse, self._refuse, self._refuse, self._fail_over]
        return [*on_workers, self._jump, *on_servers]

    # Workers

    def _start_worker(self) -> None:
        pool = self._rng.choice(list(POOLS))
        name = f"{pool}{len(self._system.processes)}"
        options = f"-P {pool} -c {POOLS[pool]} -n {name}@%h -l WARNING --without-mingle"
        process = self._system.start(*f"celery -A workers worker {options}".split())
        self._workers[f"{name}@{socket.gethostname()}"] = (process, time.monotonic())

    def _end(self, how: Callable[[Any], None]) -> None:
        node = self._rng.choice(list(self._workers))
        process, _ = self._workers.pop(node)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        how(process)
        for left in psutil.wait_procs(children, timeout=30)[1]:
            self.tally.stalls.append(f"a process of {node} lives on: {left.cmdline()}")
        self._start_worker()

    def _kill(self) -> None:
        def kill(process: Any) -> None:
            process.kill()
            process.wait(timeout=20)

        self._end(kill)

    def _terminate(self) -> None:
        self._end(lambda process: self._tell(process, signal.SIGTERM, 30))

    def _quit(self) -> None:
        self._end(lambda process: self._tell(process, signal.SIGQUIT, 30))

    def _tell(self, process: Any, number: signal.Signals, within_s: float) -> None:
        process.send_signal(number)
        try:
            wait_until(lambda: process.poll() is not None, within_s)
        except AssertionError:
            self.tally.stalls.append(f"{process.args} did not end after {number.name}")
            process.send_signal(signal.SIGUSR2)  # its log shows what it waits for
            wait_until(lambda: "most recent call first" in self._system.logs(), 10)
            process.kill()
            process.wait(timeout=20)

    def _kill_child(self) -> None:
        children = [
            child
            for process, started_at in self._workers.values()
            # Celery ends a worker whose first processes do not start.
            if process.poll() is None and time.monotonic() - started_at > STARTED_S
            for child in psutil.Process(process.pid).children()
        ]
        if children:
            self._rng.choice(children).send_signal(self._rng.choice([signal.SIGKILL, signal.SIGTERM]))

    def _stand_still(self) -> None:
        process, _ = self._rng.choice(list(self._workers.values()))
        if process.poll() is None:
            with holding_still(process.pid):
                self._wait(self._rng.uniform(0.5, 6))

    def _jump(self) -> None:
        (self._system.home / "clock").write_text(self._rng.choice(["1", "0", "-1"]))

    # Servers

    @contextmanager
    def _primary(self) -> Iterator[Any]:
        with self._pair.client(self._pair.primary()) as client:
            yield client

    def _refuse(self) -> None:
        faults = (
            server_faults.forbidden,
            server_faults.too_few_replicas,
            server_faults.out_of_memory,
            server_faults.unsaved,
            server_faults.cut_off,
            server_faults.without_scripts,
        )
        fault = self._rng.choice(faults)
        with self._primary() as client, fault(client):
            self.tally.faults[fault.__name__] += 1
            self._wait(self._rng.uniform(0.1, 3))

    def _fail_over(self) -> None:
        down, lost = self._pair.primary(), self._rng.choice(["killed", "demoted", "frozen"])
        wait_until(self._pair.is_followed, 30, self._pair.log)
        # Without it, a failover may lose the last moments.
        self._pair.hold_writes(for_s=120)
        self.tally.faults[lost] += 1
        if lost == "killed":
            self._pair.kill(down)
        elif lost == "demoted":
            self._pair.demote()
        with self._pair.frozen(down) if lost == "frozen" else _nothing():
            self._await_another_primary(down, lost)
        if lost == "killed":
            self._pair.start_server(down)
        # It takes no writes: it has no follower any more.
        with self._pair.client(down) as client:
            client.client_unpause()
        wait_until(self._pair.is_followed, 40, self._pair.log)

    def _await_another_primary(self, down: int, lost: str) -> None:
        demoted_at = time.monotonic()

        def is_another() -> bool:
            nonlocal demoted_at
            if lost == "demoted" and time.monotonic() - demoted_at > 10:
                # On a busy machine the Sentinels give up.
                demoted_at = time.monotonic()
                with suppress(RedisError):
                    self._pair.demote()
            return self._pair.primary() != down

        wait_until(is_another, 60, self._pair.log)

    # What is seen

    def _wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _look(self) -> None:
        """Ask the probes, and start again what has ended."""
        for node, (process, started_at) in list(self._workers.items()):
            if process.poll() is not None:
                self.tally.stalls.append(f"{node} ended by itself with {process.returncode}")
                del self._workers[node]
                self._start_worker()
            elif time.monotonic() - started_at > PROBED_S and (problem := find_liveness_problem(node)):
                self.tally.stalls.append(problem)

    def _account(self, acknowledged: dict[str, str], wiped: set[str]) -> None:
        def open_ones() -> list[str]:
            try:
                return self._open(acknowledged, wiped)
            except RedisError:
                return ["the server does not answer"]

        fewest, fell_at = 1 << 30, time.monotonic()
        while (left := open_ones()) and time.monotonic() - fell_at < CALM_S:
            if len(left) < fewest:
                fewest, fell_at = len(left), time.monotonic()
            self._look()
            self._wait(1)
        with self._primary() as client:
            inside = Inside(client)
            self.tally.lost += left
            self.tally.acknowledged += len(acknowledged)
            self.tally.leaks += inside.leaks() if not left else []
            answers, letters = self._read(inside)
        self.tally.handled += len(answers)
        for (subscription, event_id), count in answers.items():
            if count > 1 or (subscription, event_id) in letters:
                self.tally.repeated.append(f"{subscription} of {event_id} ({acknowledged.get(event_id)})")
        for (subscription, event_id), causes in letters.items():
            kind = acknowledged.get(event_id, "").removeprefix("end ")
            if causes == [SUBSCRIPTIONS.get(subscription, {}).get(kind)]:
                self.tally.letters[kind] += 1
            elif event_id in acknowledged:
                self.tally.wrong.append(f"{subscription} of {event_id} ({kind}): {causes}")
        done = answers.keys() | letters.keys()
        self.tally.wiped += sum((name, event_id) not in done for name in SUBSCRIPTIONS for event_id in wiped)

    def _open(self, acknowledged: dict[str, str], wiped: set[str]) -> list[str]:
        with self._primary() as client:
            inside = Inside(client)
            answers, letters = self._read(inside)
            left_over = inside.deliveries()
            idle = inside.is_idle("one", "two", "publish") and not inside.delayed()
        places = Counter(each.place for each in left_over)
        missing = [
            f"{name} of {event_id} ({text})"
            for event_id, text in acknowledged.items()
            for name in SUBSCRIPTIONS
            if event_id not in wiped and (name, event_id) not in answers and (name, event_id) not in letters
        ]
        if missing and left_over:
            return [f"not settled in time: {dict(places)}", *missing]
        return missing or ([] if idle else ["something is not settled"])

    def _read(self, inside: Inside) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str], list[str | None]]]:
        answers = Counter(
            (f"{each['event_type'].removeprefix('message.')}.answer", str(each["causation_id"]))
            for each in inside.history()
            if each["event_type"] in {"message.one", "message.two"}
        )
        letters: dict[tuple[str, str], list[str | None]] = {}
        for letter in inside.dead_letters():
            event_id = str(letter.event_attribute("event_id"))
            letters.setdefault((letter.subscription, event_id), []).append(letter.error_type)
        return answers, letters


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with paired_servers(tmp_path / "pair") as pair:
        # On a busy machine a server may be silent for a second. A failover that no pause of the writes precedes loses
        # what the other server did not have yet.
        pair.be_patient(5)
        yield pair


@pytest.mark.long
@pytest.mark.timeout(LASTS_S + 900)
def test_whatever_happens_nothing_is_lost_or_done_twice_and_each_letter_tells_its_cause(node, pair, capsys):
    node.module("endings", MODULE)
    node.module("two_agents", AGENTS)
    node.environment.update(
        PETIOLE_BROKER_URL=pair.url,
        PETIOLE_AGENTS="two_agents",
        PETIOLE_VISIBILITY_TIMEOUT_S="3",
        PETIOLE_STALL_TIMEOUT_S="10",
        # Only the kills of this test crash them.
        PETIOLE_MAX_DELIVERY_CRASHES="50",
    )
    attack = Attack(node, pair, random.Random(SEED))
    began = time.monotonic()

    while time.monotonic() - began < LASTS_S and not attack.tally.broken:
        attack.round()
        with capsys.disabled():
            print(f"\nseed {SEED}, {time.monotonic() - began:.0f} s: {attack.tally}", flush=True)

    assert not attack.tally.broken, f"{attack.tally}\n{attack.tally.broken}\n{node.logs()[-5000:]}"
