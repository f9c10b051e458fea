"""Consumer id: identifies who has leased a delivery, at the broker and in a task.

A consumer is one channel that consumes. A worker keeps its id after a reconnection. The connections of a process have
the name of the process, so others can see whether it still runs. While a worker has a delivery, the task's headers name
consumer and delivery tag; a script checks by them whether the consumer still has the lease.
"""

from __future__ import annotations

import itertools
import os
from functools import cache
from uuid import uuid4

CONSUMER_HEADER = "petiole_consumer"
FETCHED_HEADER = "petiole_fetched_at"
"""When the delivery was fetched, by `lease_clock` (leases.py); 0 if it must be checked before it runs."""

OWN_HEADERS = {CONSUMER_HEADER, FETCHED_HEADER, "petiole_entry"}
"""The headers that the transport adds to a task's message when it hands it over."""

_NAME = "petiole-"


def current_process_id() -> str:
    """Return the id of this process; a forked process gets its own."""
    return _process_id_of(os.getpid())


def connection_name() -> str:
    """Return the name of this process's connections."""
    return _NAME + current_process_id()


def new_consumer_id() -> str:
    """Return the id of a new consumer of this process."""
    return f"{current_process_id()}.{next(_numbers)}"


def is_connected(consumer_id: str, connection_names: set[str]) -> bool:
    """Return whether the consumer's process has one of these connections."""
    return _NAME + consumer_id.partition(".")[0] in connection_names


@cache
def _process_id_of(pid: int) -> str:  # noqa: ARG001 - the cache key: a forked process gets its own
    return str(uuid4())


_numbers = itertools.count(1)
