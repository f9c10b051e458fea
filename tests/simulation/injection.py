"""Injection: a Redis client whose every call may go wrong, as a seed says.

    refused         nobody listens: nothing was done, and the caller knows it
    lost before     the connection ended on the way there: nothing was done
    lost after      it ended on the way back: all was done, and the caller does not know
    late            the same, but the caller's patience ended: executed, and the caller saw a timeout
    half            of a pipeline that is no transaction, a part was done
    full            the server has no memory left for a command that writes
    dies before     the process that calls ends there, before the command or after it; nothing of it unwinds but a
    dies after      BaseException, which no code of ours may stop

Which calls may fail at all is chosen once for a run, and how often: some runs are calm but for one command.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import fakeredis
import redis

from tests.simulation.turns import Turns

Answer = TypeVar("Answer")

ERRORS = ("refused", "lost before", "lost after", "late", "full")
DEATHS = ("dies before", "dies after")
WRITES = ("script", "pipeline", "SET", "HSET", "HINCRBY", "ZADD", "put")


class ProcessDied(BaseException):
    """The process of an actor ended. No `except Exception` stops it."""


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
            errors=rng.choice([0.0, 0.02, 0.1, 0.2]), deaths=rng.choice([0.0, 0.02, 0.1]), points=rng.choice([0.3, 1.0])
        )


class Injector:
    """What goes wrong, and the trace of it."""

    def __init__(self, rng: random.Random, turns: Turns, note: Callable[[str], None]) -> None:
        self._rng = rng
        self._turns = turns
        self._note = note
        self._weather = Weather.of(rng)
        self._may_fail: dict[str, bool] = {}
        self.is_on = True

    def call(self, name: str, act: Callable[[], Answer], *, half: Callable[[], object] | None = None) -> Answer:
        """Run a call of the actor whose turn it is, or let it go wrong. Outside actors it never does."""
        if self._turns.current is None:
            return act()
        self._turns.pass_on()
        fault = self._choose(name, may_be_half=half is not None)
        self._note(f"{name}: {fault or 'ok'}")
        if fault == "half" and half is not None:
            half()
        if fault in {"", "lost after", "late", "dies after"}:
            answer = act()
            if not fault:
                return answer
        raise _error(fault)

    def dies(self, where: str) -> None:
        """End the process here, if it is to end here."""
        if self.is_on and self._turns.current is not None and self._rng.random() < self._weather.deaths:
            self._note(f"{where}: dies")
            raise ProcessDied

    def _choose(self, name: str, *, may_be_half: bool) -> str:
        if not self.is_on:
            return ""
        if name not in self._may_fail:
            self._may_fail[name] = self._rng.random() < self._weather.points
        chance = self._rng.random()
        if not self._may_fail[name] or chance >= self._weather.errors + self._weather.deaths:
            return ""
        if chance >= self._weather.errors:
            return self._rng.choice(DEATHS)
        writes = name.startswith(WRITES)
        kinds = [kind for kind in ERRORS if kind != "full" or writes]
        return self._rng.choice([*kinds, "half"] if may_be_half else kinds)


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
    """A client whose calls go through an injector."""

    injector: Injector

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """Run a command, or let it go wrong."""
        return self.injector.call(_name(words), lambda: super(FaultyRedis, self).execute_command(*words, **options))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Make a pipeline that goes wrong as a whole, or in its middle where it is no transaction."""
        made = FaultyPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.injector = self.injector
        return made


class FaultyPipeline(redis.client.Pipeline):
    """A pipeline whose execution goes through an injector."""

    injector: Injector

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands, or let them go wrong."""
        commands: Sequence[Any] = list(self.command_stack)
        name = "pipeline " + " ".join(dict.fromkeys(str(command[0][0]) for command in commands))

        def act() -> list[Any]:
            return super(FaultyPipeline, self).execute(raise_on_error)

        def half() -> None:
            del self.command_stack[len(commands) // 2 :]
            act()

        try:
            return self.injector.call(name, act, half=None if self.is_transaction else half)
        finally:
            self.reset()

    @property
    def is_transaction(self) -> bool:
        """Tell whether all commands are run or none."""
        return bool(self.transaction)


def _name(words: Sequence[Any]) -> str:
    command = str(words[0])
    return f"script {_scripts().get(str(words[1]), words[1])}" if command == "EVALSHA" else command


_known: dict[str, str] = {}


def _scripts() -> dict[str, str]:
    """Name our scripts by the digests that Redis calls them by."""
    if not _known:
        folder = files("petiole.tasks.stores.scripts")
        texts = {each.name: each.read_text() for each in folder.iterdir() if each.name.endswith(".lua")}
        for name, text in texts.items():
            for before in ("", texts["append_to_history.lua"]):
                _known[hashlib.sha1((before + text).encode()).hexdigest()] = name.removesuffix(".lua")  # noqa: S324 - Redis's
    return _known
