"""Remote control: a worker replies once it is ready, and no broadcast ends it.

Celery's remote control obeys whoever can write to the broker, and `app.control.shutdown()` without a destination ends
all workers of the broker at once. A worker of a bus refuses these commands unless they name it, and logs that it did:

    shutdown, pool_restart

`celery -A … control shutdown -d NODE` and `petiole down` name the workers. PETIOLE_REMOTE_CONTROL=all restores Celery's
behaviour. This is a guard against accidents and careless scripts; who must not reach the broker is the broker's matter:
docs/operations/security.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from celery.worker.consumer.control import Control

from petiole.tasks.runtime import bus_of

COMMANDS_TO_NAMED_WORKERS: Final = frozenset({"shutdown", "pool_restart"})

log = logging.getLogger(__name__)


class RemoteControl(Control):
    """The step of the consumer's start that makes the mailbox of remote control, in place of Celery's.

    It comes after the agents are registered and their `on_start` functions have run: in the gevent pool a greenlet
    reads the mailbox from then on, and a worker that replies counts as ready.
    """

    requires = (
        "celery.worker.consumer.tasks:Tasks",
        "petiole.tasks.consuming.announcement:SubscriptionRegistration",
        "petiole.tasks.consuming.heartbeat:Heartbeat",
    )

    box: Any  # the stubs leave it out

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        if bus_of(consumer.app).settings.remote_control != "all":
            self.box.node.handle_message = limit_broadcasts(self.box.node.handle_message)


def limit_broadcasts(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that handles a command unless it is a broadcast of one that must name its workers."""

    def handle_limited(body: Mapping[str, Any], message: Any = None) -> Any:
        command = body.get("method")
        if command in COMMANDS_TO_NAMED_WORKERS and not body.get("destination"):
            log.warning("remote_control.refused", extra={"command": command, "reason": "it names no worker"})
            return None
        return handle(body, message)

    return handle_limited
