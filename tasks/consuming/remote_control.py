"""Remote control: a broadcast ends no worker.

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
from functools import partial
from typing import Any, Final

from celery import bootsteps

from petiole.tasks.runtime import bus_of

COMMANDS_TO_NAMED_WORKERS: Final = frozenset({"shutdown", "pool_restart"})

log = logging.getLogger(__name__)


class RemoteControlLimit(bootsteps.StartStopStep):
    """A step of the consumer's start, after the one that makes the mailbox of remote control."""

    requires = ("celery.worker.consumer.control:Control",)

    def start(self, consumer: Any) -> None:
        """Limit the commands of this worker's mailbox."""
        control = next((step for step in consumer.steps if type(step).__name__ == "Control"), None)
        if control is None or bus_of(consumer.app).settings.remote_control == "all":
            return
        mailbox = control.box.node
        mailbox.handle_message = limit_broadcasts(partial(type(mailbox).handle_message, mailbox))


def limit_broadcasts(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that handles a command unless it is a broadcast of one that must name its workers."""

    def handle_limited(body: Mapping[str, Any], message: Any = None) -> Any:
        command = body.get("method")
        if command in COMMANDS_TO_NAMED_WORKERS and not body.get("destination"):
            log.warning("remote_control.refused", extra={"command": command, "reason": "it names no worker"})
            return None
        return handle(body, message)

    return handle_limited
