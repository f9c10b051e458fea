"""Readiness: whether events can be published and handled now.

The check connects to the broker and the state store as a publisher does, and reads who is subscribed: until the first
worker has registered its agents, events are for nobody. It fails within READY_TIMEOUT_S if a server refuses the
connection, is silent or is slow, and succeeds again as soon as both reply. Liveness is a separate check
(liveness.py), because an outage of the broker is no reason to restart a worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from petiole.events.errors import PetioleError
from petiole.tasks.broker.topology import logical_queue
from petiole.tasks.runtime import BusRuntime

Check: TypeAlias = Callable[[], str | None]
"""Returns what is missing, or raises what the server replied."""

READY_TIMEOUT_S = 3.0
"""The longest time that a check takes."""

_INSPECT_TIMEOUT_S = 1.0


def find_readiness_problem(bus: BusRuntime, *, queue: str | None = None, worker: str | None = None) -> str | None:
    """Return why the system is not ready, or None if it is: both servers reply, and a handler is subscribed.

    Args:
        bus: The bus whose broker and state store are checked.
        queue: If given, a worker has to consume this queue.
        worker: If given, this worker has to consume: its node name, or the part before the @.

    Raises:
        NotConfigured: No broker is configured.
    """
    more: dict[str, Check] = {"the directory": partial(_find_subscription_problem, bus)}
    if queue or worker:
        more["remote control"] = partial(_find_consumer_problem, bus, queue=queue, worker=worker)
    return _find_problem(_server_checks(bus) | more)


def find_server_problem(bus: BusRuntime) -> str | None:
    """Return which of the servers does not reply and why, or None. Raises NotConfigured as find_readiness_problem."""
    return _find_problem(_server_checks(bus))


def _server_checks(bus: BusRuntime) -> dict[str, Check]:
    bus.require_broker()
    return {"the state store": partial(_read_state, bus), "the broker": partial(_connect, bus)}


def _find_problem(checks: Mapping[str, Check]) -> str | None:
    results: list[str | None] = []
    stage = [""]

    def check() -> None:
        results.append(_first_problem(checks, stage))

    # Socket timeouts do not cover every way in which a server can be silent. The daemon thread is then abandoned.
    thread = threading.Thread(target=check, name="petiole-readiness", daemon=True)
    thread.start()
    thread.join(READY_TIMEOUT_S)
    return results[0] if results else f"{stage[0]} did not reply within {READY_TIMEOUT_S:g} s"


def _first_problem(checks: Mapping[str, Check], stage: list[str]) -> str | None:
    for stage[0], check in checks.items():
        try:
            problem = check()
        except PetioleError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - every error of a server is a reason why it is not ready
            return f"{stage[0]} does not reply: {error}"
        if problem is not None:
            return problem
    return None


def _read_state(bus: BusRuntime) -> None:
    bus.stores.directory.version()


def _connect(bus: BusRuntime) -> None:
    with bus.app.connection_for_read() as connection:
        connection.connect()
        # kombu connects to Redis only when a channel is opened.
        channel: Any = connection.channel()
        channel.close()


def _find_subscription_problem(bus: BusRuntime) -> str | None:
    return None if bus.read_routing().all() else "no handler is subscribed; start a worker of the agents"


def _find_consumer_problem(bus: BusRuntime, *, queue: str | None, worker: str | None) -> str | None:
    replies = bus.app.control.inspect(timeout=_INSPECT_TIMEOUT_S).active_queues() or {}
    consumed = {
        node: {logical_queue(entry["name"]) for entry in queues}
        for node, queues in replies.items()
        if worker is None or worker in {node, node.partition("@")[0]}
    }
    if worker is not None and not any(consumed.values()):
        return f"the worker {worker} does not reply, or consumes nothing"
    if queue is not None and not any(queue in queues for queues in consumed.values()):
        return f"no worker consumes the queue {queue}" if worker is None else f"{worker} does not consume {queue}"
    return None
