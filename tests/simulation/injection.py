"""Injection: a Redis client whose every call may go wrong, as a seed says.

    refused         nobody listens: nothing was done, and the caller knows it
    lost before     the connection ended on the way there: nothing was done
    lost after      it ended on the way back: all was done, and the caller does not know
    late            the same, but the caller's patience ended: executed, and the caller saw a timeout
    half            of a pipeline that is no transaction, a part was done
    full            the server has no memory left for a command that writes before it removes
    dies before     the process that calls ends there, before the command or after it; nothing of it unwinds but a
    dies after      BaseException, which no code of ours may stop

Which calls may fail at all is chosen once for a run, and how often: some runs are calm but for one command. One fault
is planned for each seed, so that every seed has a fault that was reached, and every kind of fault has its seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, ClassVar, TypeVar

import fakeredis
import redis

from petiole.tasks.stores import scripts
from petiole.tasks.transport.scripts import load_transport_script
from tests.simulation.turns import ProcessDied, Turns

Answer = TypeVar("Answer")

ERRORS = ("refused", "lost before", "lost after", "late", "full")
DEATHS = ("dies before", "dies after")
FILLS = ("script publish", "script begin_delivery", "script send_due", "script start_replay", "script renew", "put")


DISTURBANCES = ("pause", "cut", "die", "stop")
"""What happens to a whole process: world.py."""

KINDS = (*ERRORS, *DEATHS, *DISTURBANCES)  # `half` is left out: few runs have a call that can be half done


@dataclass
class Plan:
    """The fault that a seed must reach: it strikes at one of the first calls, or looks, at which it can."""

    kind: str
    chances_before: int

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Choose that of a seed."""
        kind = KINDS[seed % len(KINDS)]
        return cls(kind, random.Random(f"plan {seed}").randint(0, 8))

    def strikes(self) -> bool:
        """Tell whether it strikes at this chance."""
        self.chances_before -= 1
        return self.chances_before == -1


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely a call that may fail at all does."""

    errors: float
    deaths: float
    points: float

    @classmethod
    def of(cls, rng: random.Random) -> Weather:
        """Choose one for a run."""
        return cls(
            errors=rng.choice([0.0, 0.02, 0.1, 0.2]),
            deaths=rng.choice([0.0, 0.002, 0.01]),
            points=rng.choice([0.3, 1.0]),
        )


class Injector:
    """What goes wrong, and the trace of it."""

    def __init__(
        self, rng: random.Random, plan: Plan, turns: Turns, note: Callable[[str], None], die: Callable[[], None]
    ) -> None:
        self.rng = rng
        self._plan = plan
        self.reached: Counter[str] = Counter()
        """How often each kind of fault was met."""
        self._turns = turns
        self._note = note
        self._die = die
        self._weather = Weather.of(rng)
        self._may_fail: dict[str, bool] = {}
        self.is_on = True

    def call(self, name: str, act: Callable[[], Answer], *, half: Callable[[], object] | None = None) -> Answer:
        """Run a call of the actor whose turn it is, or let it go wrong. Outside actors it never does."""
        if self._turns.current is None:
            return act()
        self._turns.pass_on()
        fault = self._choose(name, may_be_half=half is not None)
        self.reached.update([fault] if fault else [])
        self._note(f"{name}: {fault or 'ok'}")
        if fault == "half" and half is not None:
            half()
        if fault in {"", "lost after", "late", "dies after"}:
            answer = act()
            if not fault:
                self._turns.pass_on()
                return answer
        if fault in DEATHS:
            self._die()
        raise _error(fault)

    def _choose(self, name: str, *, may_be_half: bool) -> str:
        if not self.is_on:
            return ""
        kinds = [kind for kind in ERRORS if kind != "full" or name in FILLS] + ["half"] * may_be_half
        if self._plan.kind in {*kinds, *DEATHS} and self._plan.strikes():
            return self._plan.kind
        if name not in self._may_fail:
            self._may_fail[name] = self.rng.random() < self._weather.points
        chance = self.rng.random()
        if not self._may_fail[name] or chance >= self._weather.errors + self._weather.deaths:
            return ""
        if chance >= self._weather.errors:
            return self.rng.choice(DEATHS)
        return self.rng.choice(kinds)


def _error(fault: str) -> BaseException:
    if fault in DEATHS:
        return ProcessDied(fault)
    if fault == "full":
        return redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    if fault == "late":
        return redis.exceptions.TimeoutError("Timeout reading from socket")
    error = redis.exceptions.ConnectionError(fault)
    if fault == "refused":
        error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    return error


class FaultyRedis(fakeredis.FakeRedis):
    """A client whose calls go through an injector. `observe` sees each that was executed, with its answer."""

    injector: Injector
    observe: Callable[[str, Sequence[Any], Any], None]
    connections: Callable[[], list[dict[str, str]]]
    scripts: ClassVar[dict[str, tuple[str, str]]] = {}
    """Name and text of each script, by the digest that Redis calls it by."""

    def register_script(self, script: Any) -> Any:
        """Register a script, and remember its name."""
        self.name_script(script)
        return super().register_script(script)

    @classmethod
    def name_script(cls, text: str) -> None:
        """Remember the name of a script: that of its last file."""
        files = files_of_scripts()
        name = max((name for name in files if text.endswith(files[name])), key=lambda name: len(files[name]))
        cls.scripts[hashlib.sha1(text.encode()).hexdigest()] = (name, text)  # noqa: S324 - Redis's

    def client_list(self, *_: object, **__: object) -> Any:
        """List the connections of the processes that live."""
        return self.injector.call("CLIENT LIST", self.connections)

    def info(self, *_: object, **__: object) -> Any:
        """Tell that the server has run for long."""
        return self.injector.call("INFO", lambda: {"uptime_in_seconds": 1_000})

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """Run a command, or let it go wrong."""
        name = name_of(words)
        return self.injector.call(name, lambda: self.execute_now(name, *words, **options))

    def execute_now(self, name: str, *words: Any, **options: Any) -> Any:
        """Run a command past all faults."""
        answer = super().execute_command(*words, **options)
        self.observe(name, words, answer)
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Make a pipeline that goes wrong as a whole, or in its middle where it is no transaction."""
        made = FaultyPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.owner = self
        return made


class FaultyPipeline(redis.client.Pipeline):
    """A pipeline whose execution goes through an injector."""

    owner: FaultyRedis

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands, or let them go wrong."""
        commands: Sequence[Any] = list(self.command_stack)
        name = "pipeline " + " ".join(dict.fromkeys(name_of(command[0]) for command in commands))

        def act() -> list[Any]:
            return super(FaultyPipeline, self).execute(raise_on_error)

        def half() -> None:
            del self.command_stack[len(commands) // 2 :]
            act()

        try:
            answer = self.owner.injector.call(name, act, half=None if self.is_transaction else half)
        finally:
            self.reset()
            self.owner.observe(name, (), None)
        return answer

    @property
    def is_transaction(self) -> bool:
        """Tell whether all commands are run or none."""
        return bool(vars(self)["transaction"])


@cache
def files_of_scripts() -> dict[str, str]:
    loaders = {"stores": scripts.load_script, "transport": load_transport_script}
    return {
        each.name.removesuffix(".lua"): load(each.name.removesuffix(".lua"))
        for package, load in loaders.items()
        for each in resources.files(f"petiole.tasks.{package}.scripts").iterdir()
        if each.name.endswith(".lua")
    }


def name_of(words: Sequence[Any]) -> str:
    """Name a command. A commit is a publish where it ends no delivery that is leased."""
    command, *arguments = (word.decode() if isinstance(word, bytes) else str(word) for word in words[:2])
    if command == "EVAL":
        arguments = [hashlib.sha1(arguments[0].encode()).hexdigest()]  # noqa: S324 - Redis's
    elif command != "EVALSHA":
        return command
    name, _ = FaultyRedis.scripts[arguments[0]]
    return "script publish" if name == "commit" and not words[CONSUMER] else f"script {name}"


OUTCOME, DELIVERY, CONSUMER, TAG = 13, 14, 15, 16
"""Places of a commit's arguments in its command."""
