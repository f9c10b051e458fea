"""Endings: every way in which a handler can end that is no result, and the name that its dead letter has to give.

`MODULE` is a module for workers: `ENDS` has for each kind a function that ends so.
"""

from __future__ import annotations

MODULE = """
import asyncio
import sys

from celery.exceptions import Reject, WorkerShutdown
from gevent import Timeout as GeventTimeout
from petiole.events.errors import Permanent, RetryLater


class Unpicklable(BaseException):
    def __init__(self, first, second):
        super().__init__(lambda: first, second)


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Exiting(Exception):
    def __str__(self):
        sys.exit(3)

    def __reduce__(self):
        raise KeyboardInterrupt


class Codeless(Permanent):
    def __init__(self):
        pass


def recurse():
    recurse()


def drop():
    raise Reject("not here", requeue=False)


def throw(error):
    raise error


ENDS = {
    "exit": lambda: sys.exit("b\\udcff"),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "cancelled": lambda: throw(asyncio.CancelledError()),
    "generator_exit": lambda: throw(GeneratorExit()),
    "stop_iteration": lambda: throw(StopIteration(3)),
    "own": lambda: throw(Unpicklable(1, 2)),
    "group": lambda: throw(BaseExceptionGroup("several", [SystemExit(1), ValueError("x")])),
    "gevent": lambda: throw(GeventTimeout(1)),
    "shutdown": lambda: throw(WorkerShutdown()),
    "memory": lambda: throw(MemoryError("no room")),
    "recursion": recurse,
    "surrogate": lambda: throw(ValueError("b\\udcff")),
    "wordless": lambda: throw(Wordless()),
    "exiting": lambda: throw(Exiting()),
    "huge": lambda: throw(ValueError("x" * 9_000_000)),
    "codeless": lambda: throw(Codeless()),
    "nan": lambda: throw(RetryLater("soon", float("nan"))),
    "drop": drop,
}
"""

ENDS = {
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "cancelled": "CancelledError",
    "generator_exit": "GeneratorExit",
    "stop_iteration": "StopIteration",
    "own": "Unpicklable",
    "group": "BaseExceptionGroup",
    "gevent": "Timeout",
    "shutdown": "WorkerShutdown",
    "memory": "MemoryError",
    "recursion": "RecursionError",
    "surrogate": "ValueError",
    "wordless": "Wordless",
    "exiting": "Exiting",
    "huge": "ValueError",
    "codeless": "Codeless",
    "nan": "RetryLater",
    "drop": "Reject",
}

ASYNC_ENDS = {f"async_{kind}": error for kind, error in ENDS.items()} | {
    "async_stop_iteration": "RuntimeError",  # Python's, for any coroutine
    "task_exits": "SystemExit",
}
NOT_RETRIED = {"codeless", "nan", "async_codeless", "async_nan"}
