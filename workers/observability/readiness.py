"""Health: whether events can be published and handled now, asked over the same network as everything else.

A check is red within LIMIT_S while the broker or the state store does not answer, however it does not (refused, silent,
slow), and green again as soon as they do. Whether a worker's process gets on is another question, see pulse.py: an
outage of the broker is no reason to restart a worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from petiole.events.errors import PetioleError
from petiole.tasks.broker.topology import logical_queue
from petiole.tasks.runtime import BusRuntime

READY_TIMEOUT_S = 3.0
"""How long a check takes at most."""

_INSPECT_TIMEOUT_S = 1.0


def find_readiness_problem(bus: BusRuntime, *, queue: str | None = None, worker: str | None = None) -> str | None:
    """Say why the system is not ready; None where it is.

    With `queue`, a worker has to consume it; with `worker`, that node has to consume (its name, or all before the @).
    Raises NotConfigured.
    """
    bus.require_broker()
    answers: list[str | None] = []
    stage = ["the state store"]

    def check() -> None:
        answers.append(_first_problem(bus, stage, queue=queue, worker=worker))

    # A server may be silent in more ways than socket timeouts cover; the thread is left behind then.
    thread = threading.Thread(target=check, name="petiole-readiness", daemon=True)
    thread.start()
    thread.join(READY_TIMEOUT_S)
    return answers[0] if answers else f"{stage[0]} did not answer within {READY_TIMEOUT_S:g} s"


def _first_problem(bus: BusRuntime, stage: list[str], *, queue: str | None, worker: str | None) -> str | None:
    checks: dict[str, Callable[[], object]] = {
        "the state store": bus.stores.directory.version,
        "the broker": lambda: _connect(bus),
    }
    for stage[0], check in checks.items():
        try:
            check()
        except PetioleError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever keeps a server from answering is the answer
            return f"{stage[0]} does not answer: {error}"
    stage[0] = "remote control"
    return _find_consumer_problem(bus, queue=queue, worker=worker) if queue or worker else None


def _connect(bus: BusRuntime) -> None:
    with bus.app.connection_for_read() as connection:
        connection.connect()
        # Redis is connected to when it is first used.
        channel: Any = connection.channel()
        channel.close()


def _find_consumer_problem(bus: BusRuntime, *, queue: str | None, worker: str | None) -> str | None:
    answers = bus.app.control.inspect(timeout=_INSPECT_TIMEOUT_S).active_queues() or {}
    consumed = {
        node: {logical_queue(each["name"]) for each in queues}
        for node, queues in answers.items()
        if worker is None or worker in {node, node.partition("@")[0]}
    }
    if worker is not None and not any(consumed.values()):
        return f"the worker {worker} does not answer, or consumes nothing"
    if queue is not None and not any(queue in queues for queues in consumed.values()):
        return f"no worker consumes the queue {queue}" if worker is None else f"{worker} does not consume {queue}"
    return None
