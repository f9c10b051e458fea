"""Who acts on events: the bundled agents, the parts they use, and the processes they run in.

agents/          one file per agent: its subscriptions at the top, its decisions below
llm/ tools/ channels/ retrieval/    what agents use, behind small protocols, one file each
state/           what the agents remember: memories, facts, event counts, outbound messages, approvals
process/         the embedded broker, discovery of agents, child processes
observability/   logging, liveness, readiness
cli/             one file per command
celery.py        the app of `celery -A workers worker`
"""

from __future__ import annotations

from importlib import import_module

from petiole.events.errors import PetioleError


def __getattr__(name: str) -> object:
    # Loaded only when Celery asks for it: importing celery.py starts the embedded broker where none is configured.
    if name == "app":
        try:
            return import_module("petiole.workers.celery").app
        except PetioleError as error:
            # Celery would print a traceback around it.
            raise SystemExit(f"error: {error}") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "workers":
    # From a checkout's root this file is importable as `workers` too. Its modules have one name, `petiole.workers.…`.
    __path__ = []
