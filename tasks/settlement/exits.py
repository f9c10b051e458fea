"""Exits: how a handler can end besides a result and an exception that Celery expects.

`sys.exit()`, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, gevent's Timeout and a service's own
BaseException pass every `except Exception`: they would end a prefork process, or leave a thread's delivery without an
outcome. Celery ends the whole worker for a MemoryError. Raised by a handler, each is a failed attempt, recorded under
its own name. Raised by the worker that shuts down, it must pass, and the delivery returns to its queue.
"""

from __future__ import annotations

import pickle
import sys

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # the stubs leave it out
from celery.exceptions import WorkerShutdown, WorkerTerminate

from petiole.events.errors import Retryable, error_type_of
from petiole.events.texts import error_text


def is_shutdown(error: BaseException) -> bool:
    """Return whether an error reaches the handler from outside, because its process or worker is being ended."""
    if terminate_handler_fired():
        return True  # SIGTERM in a prefork process: SystemExit, or what a `finally` of the handler raised after it
    state = sys.modules.get("celery.worker.state")  # not loaded where no worker runs
    is_stopping = state is not None and (state.should_stop, state.should_terminate) != (None, None)
    return is_stopping and isinstance(error, WorkerShutdown | WorkerTerminate)


def as_failure(error: BaseException, subscription: str) -> Exception:
    """Return an error that is an ordinary failure for Celery: `error` itself, or one in its place with its name."""
    if isinstance(error, Exception) and not isinstance(error, MemoryError):
        return error
    name = error_type_of(error)
    advice = "a handler must return or raise an Exception"
    exited = Retryable(f"{subscription} ended with {name}: {error_text(error)}; {advice}", code=name)
    exited.__cause__ = error
    return exited.with_traceback(error.__traceback__)


def reportable(error: Exception) -> Exception:
    """Return an error that Celery can read: `error`, or one in its place with its name and text.

    Celery pickles and prints what failed, and handles an Exception in that, but not a SystemExit or KeyboardInterrupt.
    """
    try:
        str(error), repr(error), pickle.loads(pickle.dumps(error))  # noqa: S301 - this process wrote it
    except Exception:  # noqa: BLE001 - Celery handles it
        return error
    except BaseException as raised:
        if is_shutdown(raised):
            raise
        return Retryable(error_text(error), code=error_type_of(error))
    return error
