"""The prefork pool: what a worker asks of the processes of Celery's pool beyond its public methods.

    check_pool             refuse a version of Celery whose private names differ
    watch_again            a process that ended while the connection was lost is replaced
    accept_written_jobs    a job that was written to a process is running, also if the process has not confirmed it
    forget_halted_job      a worker that is told to end at once does not wait for a job that it is writing
    end_without_pauses     a worker that is told to end does not wait for what nobody needs
    end_if_orphaned        a process that was forked while its worker was killed ends, too

The private names that this takes are checked when a worker starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, TypeAlias

from billiard.common import TERM_SIGNAL
from billiard.pool import DEATH, ApplyResult
from billiard.process import current_process
from billiard.reduction import ForkingPickler
from kombu.asynchronous import set_event_loop

from petiole.events.errors import unsupported_pool
from petiole.tasks.transport import kombu_compat

# Celery's and billiard's objects, of which the stubs describe too little to be checked against.
TaskPool: TypeAlias = Any
Processes: TypeAlias = Any

_LOOK_S = 0.02
_PIPE_BYTES = 65_536
_LAST_BYTES = 256
"""More than the last message of a process has."""

# The parameters after self; None for an attribute that is not called.
_POOL_NAMES = {
    "_cache": None,
    "_active_writers": None,
    "_flush_writer": "proc writer",
    "_track_child_process": "proc hub",
}
_JOB_NAMES = {"_ack": "i time_accepted pid synqW_fd", "_write_to": None, "_accepted": None, "discard": ""}
_RESULT_HANDLER_NAMES = {"on_stop_not_started": ""}


def check_pool(pool: TaskPool) -> None:
    """Raise UsageError (unsupported_pool) if a private name of the prefork pool is missing or has other parameters."""
    processes = pool._pool  # noqa: SLF001 - billiard's pool
    handler = getattr(processes, "_result_handler", None)
    expected = ((processes, _POOL_NAMES), (ApplyResult({}, None), _JOB_NAMES), (handler, _RESULT_HANDLER_NAMES))
    for owner, names in expected:
        for name, difference in kombu_compat.find_changed_names(owner, names):
            raise unsupported_pool(f"{type(owner).__name__}.{name}", difference, version("celery"))


def watch_again(pool: TaskPool) -> None:
    """Have Celery watch each process of the pool for its end. Call it before the event loop starts again.

    Celery stops watching a process when it closes its pipe, and replaces it once it can be waited for. If the
    connection is lost between the two, Celery would watch None in its place, and end the worker.
    """
    processes = pool._pool  # noqa: SLF001
    for process in tuple(processes._pool) if processes is not None else ():  # noqa: SLF001
        if getattr(process, "_sentinel_poll", 0) is None and process._popen.sentinel is not None:  # noqa: SLF001
            del process._sentinel_poll  # noqa: SLF001


def accept_written_jobs(pool: TaskPool) -> None:
    """Count what was written to a process as begun, and write the rest of what was written in part.

    Celery takes what no process has confirmed for not begun, and forgets it when it loses the connection or ends: the
    process runs it nevertheless, waits until its result is read, and the broker delivers it again.
    """
    processes = pool._pool  # noqa: SLF001 - billiard's pool; its public methods do not tell
    if processes is None:
        return  # SIGQUIT: Celery stops the pool in its signal handler
    for job in tuple(processes._cache.values()):  # noqa: SLF001
        process, writer = job._write_to, getattr(job, "_writer", None)  # noqa: SLF001
        if process is None or job._accepted:  # noqa: SLF001
            continue
        if writer is not None and writer() in processes._active_writers:  # noqa: SLF001
            processes._flush_writer(process, writer())  # noqa: SLF001
        job._ack(None, time.time(), process.pid, None)  # noqa: SLF001


def forget_halted_job(pool: TaskPool) -> None:
    """Forget the job whose write a signal handler interrupts, and end its process, which has a part of it.

    The write goes on after the handler, in which Celery waits for the result and for the process: for ever. The
    delivery returns to its queue when the worker ends.
    """
    processes = pool._pool  # noqa: SLF001
    for job in tuple(processes._cache.values()) if processes is not None else ():  # noqa: SLF001
        writer = getattr(job, "_writer", None)
        if writer is not None and getattr(writer(), "gi_running", False):
            job.discard()
            job._write_to.terminate()  # noqa: SLF001


def end_without_pauses(pool: TaskPool) -> None:
    """Have Celery stop the pool without the 1.5 s in which nothing happens. Call it before the pool is stopped.

    - A process that ends writes that it does, and sleeps for a second unless the worker reads it and ends the sleep;
      Celery's worker reads only while results are missing.
    - While the worker waits, a thread fires its timers; it sleeps for half a second before it ends. Timers are for the
      deliveries of the pool: an idle one needs no such thread.
    """
    processes = pool._pool  # noqa: SLF001
    if processes is None:
        return
    handler = processes._result_handler  # noqa: SLF001
    handler.on_stop_not_started = partial(_read_until_ended, processes, handler.on_stop_not_started)
    if not processes._cache:  # noqa: SLF001
        set_event_loop(None)


def _read_until_ended(processes: Processes, read_results: Callable[[], object]) -> None:
    """Read the missing results, then what the processes write until they have ended.

    The bytes are not parsed: a process that was killed may have written a part of a message. They are read, because a
    process cannot end before what it writes has room.
    """
    read_results()
    for process in tuple(processes._pool):  # noqa: SLF001
        reader, last = process.outq._reader, b""  # noqa: SLF001
        while not reader.closed and process.is_alive():
            if reader.poll(_LOOK_S):
                last = (last + os.read(reader.fileno(), _PIPE_BYTES))[-_LAST_BYTES:]
                if last.endswith(_last_messages(process.pid)):
                    os.kill(process.pid, TERM_SIGNAL)  # ends the sleep, as billiard does


def _last_messages(pid: int) -> tuple[bytes, ...]:
    """Return what a process writes before it sleeps: after it was told that no work follows, and after SIGTERM."""
    pickler: Any = ForkingPickler  # the stubs describe Python's
    return tuple(bytes(pickler.dumps((DEATH, (pid, code)))) for code in (os.EX_OK, TERM_SIGNAL - 256))


def end_if_orphaned() -> None:
    """End this process of a pool if its worker has ended before the system was asked to end both together.

    Celery has the system kill the processes of a pool with their worker. A process asks for it after it was forked: if
    the worker is killed before, the process would wait for ever if another one of this kind holds its pipe open.
    """
    process: Any = current_process()
    if os.getppid() != process._parent_pid:  # noqa: SLF001 - billiard's, of the worker that made it
        os._exit(os.EX_UNAVAILABLE)  # at once: nobody reads what an exit would write, and nothing was begun
