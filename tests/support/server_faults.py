"""What a server can do to its clients: refuse commands in its own words, forget, cut connections, hold still.

Each is a context manager that takes a client of the server; what it changed is as before afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from tests.support.polling import wait_until


@contextmanager
def _configured(client: Redis, name: str, value: str | int) -> Iterator[None]:
    before: Any = client.config_get(name)
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before[name])


@contextmanager
def too_few_replicas(client: Redis) -> Iterator[None]:
    """Let it demand more replicas than it has: NOREPLICAS."""
    with _configured(client, "min-replicas-to-write", 9):
        yield


@contextmanager
def forbidden(client: Redis) -> Iterator[None]:
    """Take the permission to write from the account: NOPERM."""
    client.execute_command("ACL", "SETUSER", "default", "-@write", "-eval", "-evalsha", "-bzpopmin")
    try:
        yield
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def out_of_memory(client: Redis) -> Iterator[None]:
    """Let it have no memory left: OOM."""
    with _configured(client, "maxmemory", 1):
        yield


@contextmanager
def unsaved(client: Redis) -> Iterator[None]:
    """Let its snapshots fail, because a folder stands in the place of their file: MISCONF."""
    names: Any = client.config_get("dir", "dbfilename")
    file = Path(names["dir"]) / names["dbfilename"]
    file.unlink(missing_ok=True)
    file.mkdir()
    try:
        with _configured(client, "save", "3600 100000000"):
            client.bgsave()
            wait_until(lambda: _last_save(client) == "err", 20)
            yield
    finally:
        file.rmdir()
        client.bgsave()
        wait_until(lambda: _last_save(client) == "ok", 20)


def _last_save(client: Redis) -> str:
    state: Any = client.info("persistence")
    return "" if state["rdb_bgsave_in_progress"] else str(state["rdb_last_bgsave_status"])


@contextmanager
def paused(client: Redis) -> Iterator[None]:
    """Let it answer nobody."""
    client.client_pause(60_000)
    try:
        yield
    finally:
        client.client_unpause()


@contextmanager
def cut_off(client: Redis) -> Iterator[None]:
    """End all its connections."""
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield


@contextmanager
def without_scripts(client: Redis) -> Iterator[None]:
    """Let it forget all scripts."""
    client.script_flush()
    yield


def forget_everything(client: Redis) -> None:
    """Empty it. Raises ResponseError where it refuses."""
    if not client.flushall():
        raise ResponseError("the server was not emptied")
