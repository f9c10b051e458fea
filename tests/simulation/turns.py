"""Turns: threads of which one runs at a time, and a seed says which.

An actor runs until it calls `pass_on`, which may wake another one. So the same seed gives the same order of all that
happens, and every order that real processes could take at these places is some seed's.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping

PATIENCE_S = 30.0
"""How long a thread waits for its turn; longer means that the simulation itself is broken."""


class Turns:
    """Who runs now. Only actors call its methods, but for `run`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._wakes: dict[str, threading.Lock] = {}
        self._failures: list[BaseException] = []
        self._all_ended = threading.Event()
        self.current: str | None = None
        """Who runs; None outside `run`."""

    def run(self, actors: Mapping[str, Callable[[], None]]) -> None:
        """Run all actors to their ends. Raises what the first of them raised that failed."""
        self._wakes = {name: threading.Lock() for name in actors}
        for wake in self._wakes.values():
            wake.acquire()
        threads = [
            threading.Thread(target=self._act, args=(name, act), name=name, daemon=True) for name, act in actors.items()
        ]
        for thread in threads:
            thread.start()
        self._wake_another()
        if not self._all_ended.wait(PATIENCE_S):
            raise TimeoutError(f"{self.current} has not passed its turn on for {PATIENCE_S} s")
        for thread in threads:
            thread.join(PATIENCE_S)
        self.current = None
        if self._failures:
            raise self._failures[0]

    def pass_on(self) -> None:
        """Let another actor go on, or go on oneself."""
        me = self.current
        if me is None:
            return
        following = self._rng.choice(list(self._wakes))
        if following != me:
            self.current = following
            self._wakes[following].release()
            self._await(me)

    def _act(self, name: str, act: Callable[[], None]) -> None:
        self._await(name)
        try:
            act()
        except BaseException as failure:  # noqa: BLE001 - told by `run`
            self._failures.append(failure)
        del self._wakes[name]
        self._wake_another()

    def _wake_another(self) -> None:
        if not self._wakes:
            self._all_ended.set()
            return
        self.current = self._rng.choice(list(self._wakes))
        self._wakes[self.current].release()

    def _await(self, name: str) -> None:
        if not self._wakes[name].acquire(timeout=PATIENCE_S):
            raise TimeoutError(f"{name} waited {PATIENCE_S} s for its turn; {self.current} has it")
