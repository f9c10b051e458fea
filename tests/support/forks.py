"""Run `python …` in a fork of a process that has loaded Celery and Petiole: most of a start is to load them.

Only modules are loaded, of which ours read no setting (tests/unit/workers/test_worker_settings.py), and a fork has what
a new process has (tests/unit/test_forks.py). A test of which modules are loaded, or in which order, needs a new one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).resolve().parents[2]
_LOADED = """
celery.apps.beat celery.bin.beat celery.bin.celery celery.bin.worker celery.concurrency.prefork celery.concurrency.solo
celery.concurrency.thread celery.worker.consumer celery.worker.worker kombu.transport.redis petiole.tasks.delivery
petiole.tasks.periodic petiole.workers.agents.input petiole.workers.agents.llm petiole.workers.agents.memory
petiole.workers.agents.orchestrator petiole.workers.agents.output petiole.workers.agents.tools petiole.workers.cli
petiole.workers.observability.liveness petiole.workers.observability.logging petiole.workers.observability.tracing
petiole.workers.process.discovery petiole.workers.process.embedded_broker petiole.workers.state.consolidation
"""


class Fork(subprocess.Popen[bytes]):
    """A process that is signalled and waited for as one that was started."""

    stdin = stdout = stderr = None
    _child_created = False  # by this process: a pipe tells how it ended

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], home: Path, *outputs: IO[bytes]) -> None:
        self._results, results = os.pipe()
        request = json.dumps([command, str(home), dict(environment)]).encode()
        socket.send_fds(_server()[0], [request], [0, *(output.fileno() for output in outputs), results])
        os.close(results)
        self.args, self.returncode = command, None
        self.pid = self._read_number()

    def _read_number(self) -> int:
        told = os.read(self._results, 4)
        assert told, f"who forks for the tests has ended: {self.args!r}"
        return int.from_bytes(told, signed=True)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._results], [], [], 0)[0]:
            self.returncode = self._read_number()
            os.close(self._results)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._results], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        returncode = self.poll()
        assert returncode is not None
        return returncode


def loads_the_same(command: Sequence[str], environment: Mapping[str, str], home: Path) -> bool:
    """Tell whether a fork is as good as a new process; with other paths and with green threads it is not."""
    own = {name: value for name, value in environment.items() if name.startswith(("LD_", "PYTHON"))}
    green = any(pool in word for pool in ("eventlet", "gevent") for word in command)
    return not green and own == {"PYTHONPATH": f"{home}{os.pathsep}{_ROOT}", "PYTHONUNBUFFERED": "1"}


@cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with theirs:
        return ours, subprocess.Popen(
            [sys.executable, "-um", __name__], cwd=_ROOT, env=environment, stdin=theirs.fileno()
        )


def _fork_at_requests(requests: socket.socket) -> tuple[bytes, list[int]]:
    """Fork at each request and return it in the fork. End with whoever asks."""
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not request:
            sys.exit()
        if os.fork() == 0:
            _fork_and_wait(files.pop())
            return request, files
        for file in files:
            os.close(file)


def _fork_and_wait(results: int) -> None:
    """Return in the fork; wait for its end here, as its parent, and tell of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # when nobody wants to know it
        os.write(results, child.to_bytes(4))
        os.write(results, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]).to_bytes(4, signed=True))
        os._exit(0)
    os.close(results)


def _become(request: bytes, files: Sequence[int]) -> None:
    """Be the process that was asked for, as `python -m name`, `python -c code` or `python file` makes it."""
    (first, *others), folder, environment = json.loads(request)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [{"-c": "", "-m": folder}.get(first, str(Path(first).resolve().parent)), *paths]
    importlib.invalidate_caches()
    if first == "-m":
        sys.argv[1:] = others[1:]
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:] = ["-c", *others[1:]]
        exec(compile(others[0], "<string>", "exec", dont_inherit=True), vars(sys.modules["__main__"]))  # noqa: S102
    else:
        sys.argv[:] = [first, *others]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for name in _LOADED.split():
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=os.dup(0)) as requests:
        wanted = _fork_at_requests(requests)
    _become(*wanted)
