"""Turns: threads of which one runs at a time, and a seed says which; their time is a clock that jumps.

An actor runs until it calls `pass_on`, which may wake another one. So the same seed gives the same order of all that
happens, and every order that real processes could take at these places is some seed's. While all actors wait, the clock
jumps to the first that is due.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

import time_machine

PATIENCE_S = 200.0
"""How long a thread waits for its turn in real time; longer means that the simulation itself is broken."""

TICK_MS = 3
"""How much time passes at most between two turns."""


class ProcessDied(BaseException):
    """The process of an actor ended. No `except Exception` stops it."""


class Turns:
    """Who runs now. Only actors call its methods, but for `start` before `run`, and `run`."""

    def __init__(self, rng: random.Random, clock: time_machine.Traveller) -> None:
        self._rng = rng
        self._clock = clock
        self._wakes: dict[str, threading.Lock] = {}
        self._due: dict[str, float] = {}
        self._killed: set[str] = set()
        self._failures: list[BaseException] = []
        self._all_ended = threading.Event()
        self.current: str | None = None
        """Who runs; None outside `run`."""

    @property
    def actors(self) -> set[str]:
        """The names of the actors that have not ended."""
        return set(self._wakes)

    def start(self, name: str, act: Callable[[], None]) -> None:
        """Add an actor. Death ends it; any other error ends the run."""
        self._wakes[name] = threading.Lock()
        self._wakes[name].acquire()
        self._due[name] = time.time()
        threading.Thread(target=self._act, args=(name, act), name=name, daemon=True).start()

    def run(self) -> None:
        """Run all actors to their ends. Raises what the first of them raised that failed."""
        self._wake_another()
        self._all_ended.wait()
        self.current = None
        if self._failures:
            raise self._failures[0]

    def pass_on(self, wait_s: float = 0.0) -> None:
        """Let others go on, or go on oneself; not before some time has passed. Raises ProcessDied."""
        me = self.current
        if me is None:
            return
        if self._rng.random() < 0.3:
            self._clock.shift(self._rng.randint(0, TICK_MS) / 1_000)
        self._due[me] = max(self._due[me], time.time() + wait_s)
        following = self._choose()
        if following != me:
            self._wake(following)
            self._await(me)
        if me in self._killed:
            raise ProcessDied

    def pause(self, names: Iterable[str], for_s: float) -> None:
        """Give these actors no turn for some time."""
        for name in names:
            self._due[name] = max(self._due[name], time.time() + for_s)

    def kill(self, names: Iterable[str]) -> None:
        """End these actors at their next turn, which comes at once."""
        for name in names:
            self._killed.add(name)
            self._due[name] = time.time()

    def _choose(self) -> str:
        now = max(time.time(), min(self._due[name] for name in self._wakes))
        if now > time.time():
            self._clock.move_to(now)
        return self._rng.choice([name for name in self._wakes if self._due[name] <= now])

    def _act(self, name: str, act: Callable[[], None]) -> None:
        self._await(name)
        try:
            if name not in self._killed:
                act()
        except ProcessDied:
            pass
        except BaseException as failure:  # noqa: BLE001 - raised by `run`
            self._failures.append(failure)
            self.kill(self.actors)
        del self._wakes[name]
        self._wake_another()

    def _wake_another(self) -> None:
        if self._wakes:
            self._wake(self._choose())
        else:
            self._all_ended.set()

    def _wake(self, name: str) -> None:
        self.current = name
        self._wakes[name].release()

    def _await(self, name: str) -> None:
        if not self._wakes[name].acquire(timeout=PATIENCE_S):
            raise TimeoutError(f"{name} waited {PATIENCE_S} s for its turn; {self.current} has it")
