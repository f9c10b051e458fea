"""The bundled agents, what they use, and the processes they run in.

agents/          one file per agent: subscriptions at the top, decisions below
llm/ tools/ channels/ retrieval/    language models, tools, output channels and memory search, each behind a protocol
state/           the agents' data: memories, facts, event counts, outbound messages, approvals
process/         the embedded broker, discovery of agents, child processes
observability/   logging, liveness, readiness
cli/             one file per command
celery.py        the app of `celery -A workers worker`
"""

from __future__ import annotations

from importlib import import_module

from petiole.events.errors import PetioleError


def __getattr__(name: str) -> object:
    # Import celery.py only when Celery reads `app`: the import starts the embedded broker if none is configured.
    if name == "app":
        try:
            return import_module("petiole.workers.celery").app
        except PetioleError as error:
            # Celery would print a traceback.
            raise SystemExit(f"error: {error}") from error
        except AttributeError as error:
            # Celery would take it for a module without an app, and hide it.
            raise ImportError(f"the agents cannot be loaded: {error}") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "workers":
    # From a checkout's root this file is also importable as `workers`. The empty path makes `petiole.workers.…` the
    # only name of its modules.
    __path__ = []
