"""The world of one seed: publishers, operators and workers over one fake server, with a clock that jumps and faults.

Stages, stores, transport and every Lua script are the true ones. What is simulated is below and around them: server,
connections, time, processes, Celery's worker, and who is next.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import time_machine
from redis.exceptions import RedisError, ResponseError

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, QueueFull, StateStoreUnavailable
from petiole.tasks.broker.topology import PUBLISH_QUEUE, PUBLISH_TASK
from petiole.tasks.dead_letters.replay import replay
from petiole.tasks.dead_letters.selection import DeadLetterQuery
from petiole.tasks.instrumentation import DeliveryFinished, Record
from petiole.tasks.operations.history_replay import replay_history
from petiole.tasks.stores.keys import Keys
from tests.simulation.agents import AGENTS, stage
from tests.simulation.census import Census
from tests.simulation.injection import CONSUMER, DELIVERY, DISTURBANCES, OUTCOME, TAG, Injector, Plan
from tests.simulation.machine import machine
from tests.simulation.turns import ProcessDied, Turns
from tests.simulation.worker import ChildDied, Running, Worker

PUBLISHERS, OPERATORS, WORKERS = 2, 2, 2
CALM_AFTER_S, END_S = 40.0, 300.0
OUTAGES = (BrokerUnavailable, StateStoreUnavailable, RedisError)

WORDS = ("kill", "tell:permanent:1", "tell:transient:2", "judge:permanent:2", "judge:permanent:9", "judge:transient:2")
"""What the text of an event may tell handlers to do: see agents.py."""


class Broken(BaseException):
    """A promise was broken in the middle of a run. No code of ours may catch it."""


@dataclass
class Tally:
    """What happened in a run."""

    published: set[str] = field(default_factory=set)
    """Ids of events that were acknowledged to their publishers."""
    events: int = 0
    calls: int = 0
    """How many calls were executed at the server."""
    deaths: int = 0


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, clock: time_machine.Traveller) -> None:
        self.seed = seed
        self.trace: list[str] = []
        self.tally = Tally()
        self.rng = random.Random(seed)
        self.turns = Turns(self.rng, clock)
        self._began_at = time.time()
        self.plan = Plan.of(seed)
        self.injector = Injector(self.rng, self.plan, self.turns, self.note, self._die)
        self._machine = machine()
        self.bus = self._machine.bus
        self.client: Any = self._machine.client
        self.keys = Keys(self.bus.settings.key_prefix)
        self.channel_clients = (self._machine.clients[1], self._machine.client)
        self.queues = [PUBLISH_QUEUE, *(agent.name for agent in AGENTS)]
        self.census = Census(self._machine.server, self.client, self.keys)
        self.workers: list[Worker] = []
        self._busy = PUBLISHERS + OPERATORS
        self._may_list = self.rng.random() < 0.8
        self._chaos = self.rng.choice([0.0, 0.02, 0.1])
        self.events: list[Event] = []
        """Every event, in the order of the history, which keeps few."""
        self._last_entry = "0"
        self.ends: dict[str, list[tuple[str, str, str]]] = {}
        """Outcome, consumer and tag of each commit that ended a delivery, by delivery."""
        self.done: Counter[str] = Counter()
        """How often each delivery's task returned that it was handled."""
        self.losses: Counter[str] = Counter()
        """How often each delivery ran while its process was lost."""
        self.began: list[tuple[str, str]] = []
        """Runs of the ordered handler that held their lease: stream and event, in order."""
        self.sent: dict[str, int] = {}
        """How many deliveries each replay of the history sent at its last call."""
        self._machine.begin(self)

    def run(self) -> None:
        """Publish, deliver and fail until all is at rest. Raises Broken."""
        stage.begin, stage.crash = self._begin, self._crash
        stage.runs.clear()
        self.bus.stores.directory.register(each for agent in AGENTS for each in agent.subscriptions)
        for number in range(PUBLISHERS):
            self.turns.start(f"publisher-{number}", partial(self._publish, number))
        for number in range(OPERATORS):
            self.turns.start(f"operator-{number}", self._operate)
        for _ in range(WORKERS):
            self._start_worker()
        self.turns.start("supervisor", self._supervise)
        self.turns.run()

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        shown = f"{time.time() - self._began_at:8.3f}  {self.turns.current or '-':12} {what}"
        self.trace.append(f"{len(self.trace):5} {shown}")

    def process_name(self) -> str:
        """Name the process of the actor whose turn it is."""
        return next((worker.name for worker in self.workers if worker.has(self.turns.current)), "client")

    def connections(self) -> list[dict[str, str]]:
        """List the connections of the processes that live. Raises ResponseError where nobody may ask."""
        if not self._may_list:
            raise ResponseError("this user has no permissions to run the 'client|list' command")
        return [{"name": f"petiole-{worker.name}"} for worker in self.workers if worker.is_alive]

    # Publishers

    def _publish(self, number: int) -> None:
        """Publish some events, each until it is acknowledged, unless the process dies; some are published again."""
        for place in range(self.rng.randint(1, 3)):
            event = self._an_event(number, place)
            try:
                for _ in range(self.rng.choice([1, 1, 2])):
                    self._publish_until_acknowledged(event)
                    self.tally.published.add(event.event_id)
                    self.turns.pass_on(self.rng.choice([0, 0.5, 5]))
            except ProcessDied:
                self.tally.deaths += 1
        self._busy -= 1

    def _publish_until_acknowledged(self, event: TextMessageEvent) -> None:
        publish: Any = self.bus.app.tasks[PUBLISH_TASK]
        call = self.rng.choice([publish.run, publish.delay])
        while True:
            self.note(f"publish {event.event_id[:8]} {event.content.text!r} by {call.__name__}")
            try:
                call(event)
            except (*OUTAGES, QueueFull) as error:
                self.note(f"publish {event.event_id[:8]}: {error!r} from {error.__cause__!r}")
                self.turns.pass_on(0.1)
            else:
                return

    def _an_event(self, publisher: int, place: int) -> TextMessageEvent:
        text = " ".join([f"{publisher}.{place}", *(word for word in WORDS if self.rng.random() < 0.12)])
        event_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        return TextMessageEvent(
            event_id=event_id, stream_id=f"stream-{self.rng.randint(0, 1)}", content=TextContent(text=text)
        )

    # Operators

    def _operate(self) -> None:
        """Replay dead letters, and the history, some of it twice; operators do so at the same time."""
        replay_id = f"again-{self.rng.randint(0, 1)}"
        try:
            for _ in range(self.rng.randint(0, 3)):
                self.turns.pass_on(self.rng.uniform(1, 20))
                self._until_answered(lambda: replay(DeadLetterQuery(), operator="operator", bus=self.bus))
                if self.rng.random() < 0.3:
                    self._until_answered(lambda: self._replay_history(replay_id))
        except ProcessDied:
            self.tally.deaths += 1
        self._busy -= 1

    def _replay_history(self, replay_id: str) -> None:
        self.sent[replay_id] = replay_history("plain.note", replay_id=replay_id, bus=self.bus).sent

    def _until_answered(self, operate: Callable[[], object]) -> None:
        while True:
            try:
                operate()
                self.note("operates: ok")
            except OUTAGES as error:
                self.note(f"operates: {type(error).__name__}")
                self.turns.pass_on(0.5)
            else:
                return

    # Processes

    def _start_worker(self) -> None:
        worker = Worker(self, f"worker-{len(self.workers)}")
        self.workers.append(worker)
        worker.start()

    def _supervise(self) -> None:
        """Replace workers that died, disturb others, and stop all once all is at rest."""
        while not (self._busy == 0 and self._is_at_rest()):
            self.turns.pass_on(0.25)
            past_s = time.time() - self._began_at
            self.injector.is_on = past_s < CALM_AFTER_S
            if past_s > END_S:
                raise Broken(f"not at rest: {'; '.join(map(str, self.census.found()))}")
            living = [worker for worker in self.workers if worker.is_alive]
            if self.injector.is_on and living:
                self._disturb_perhaps(living)
            for _ in range(WORKERS - len(living)):
                self._start_worker()
        self.note("at rest")
        self.injector.is_on = False
        for worker in self.workers:
            worker.is_stopping = True

    def _disturb_perhaps(self, living: Sequence[Worker]) -> None:
        if self.plan.kind in DISTURBANCES and self.plan.strikes():
            self._disturb(self.rng.choice(living), self.plan.kind)
        elif self.rng.random() < self._chaos:
            self._disturb(self.rng.choice(living), self.rng.choice(["pause", "pause", "cut", "cut", "die", "stop"]))

    def _disturb(self, worker: Worker, what: str) -> None:
        self.injector.reached[what] += 1
        for_s = self.rng.choice([1, 4, 20, 40])
        self.note(f"{what} {worker.name} {for_s if what == 'pause' else ''}")
        match what:
            case "pause":
                worker.pause(for_s)
            case "cut":
                worker.cut()
            case "die":
                worker.die()
            case "stop":
                worker.is_stopping = True

    def _is_at_rest(self) -> bool:
        waits = self.census.found() or self.census.lists_of_messages() or self.client.zcard(self.keys.delayed)
        consumers = {worker.consumer_id for worker in self.workers if worker.is_alive}
        return not waits and set(self.client.zrange(self.keys.consumers, 0, -1)) == consumers

    def _die(self) -> None:
        self.tally.deaths += 1
        for worker in self.workers:
            if worker.has(self.turns.current):
                worker.die()

    # Handlers

    def _run_of(self, actor: str | None) -> tuple[Worker, Running]:
        return next((worker, worker.running[actor]) for worker in self.workers if actor in worker.running)

    def _begin(self, event: Event) -> None:
        _, run = self._run_of(self.turns.current)
        is_leased = self.client.hexists(self.keys.consumer(run.consumer), run.tag)
        self.note(f"{run.task} begins {event.event_id[:8]}{'' if is_leased else ', not leased'}")
        if run.task == "ordered.tell" and is_leased and not run.is_replay:
            self.began.append((event.stream_id, event.event_id))
        self.turns.pass_on(self.rng.choice([0, 0, 0.1, 1, 6]))

    def _crash(self, _: Event) -> None:
        worker, run = self._run_of(self.turns.current)
        stage.runs[run.delivery, "crash"] += 1
        if worker.is_prefork:
            raise ChildDied
        worker.die()
        raise ProcessDied

    def listen(self, record: Record) -> None:
        """Count the deliveries whose handler has ended."""
        if isinstance(record, DeliveryFinished):
            self.done[record.delivery_id] += record.outcome == "handled"

    # What is seen of each step

    def observe(self, name: str, words: Sequence[Any], answer: Any) -> None:
        """Look at the server after a call that was executed, before any other."""
        self.tally.calls += 1
        if not name.startswith(("script", "pipeline")):
            return
        if name == "script expire" and int(answer) >= 0:
            self._count_losses(str(words[4]))
        if name in {"script commit", "script publish"}:
            self._record_commit(words, str(answer[0]))
        broken = list(self.census.broken())
        if broken:
            raise Broken(f"after {name}: {'; '.join(broken)}")

    def _record_commit(self, words: Sequence[Any], status: str) -> None:
        for entry_id, fields in self.client.xrange(self.keys.history, f"({self._last_entry}"):
            self._last_entry = entry_id
            self.tally.events += 1
            self.events.append(self.bus.event_registry.parse(json.loads(fields["event"])))
        if status == "published" and words[OUTCOME] in {"handled", "dead_lettered"}:
            end = (words[OUTCOME], words[CONSUMER], words[TAG])
            ends = self.ends.setdefault(words[DELIVERY], [])
            if end not in ends:
                ends.append(end)

    def _count_losses(self, consumer: str) -> None:
        for worker in self.workers:
            for run in worker.running.values():
                if run.consumer == consumer:
                    self.losses[run.delivery] += 1
