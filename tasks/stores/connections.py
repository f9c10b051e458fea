"""Connections to Redis and Valkey, over one server's address or over Sentinel.

An error reply can be an outage: the server runs, but refuses all commands or all writes for now. It is a replica since
a failover, it loads its data, it cannot save them, or an account lost a permission. `watch_refusals` makes such a reply
a lost connection, `ServerRefused`, so every caller treats it as it treats a server that is gone. With Sentinel, the
next connection goes to the new master. async_connections.py has the same for asyncio.

    redis://  rediss://  unix://                                      one server
    sentinel://HOST:PORT;sentinel://HOST:PORT/DB?master_name=NAME     the master that Sentinel names
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection

from petiole.tasks.stores.connection_pool import FREE_CONNECTION_TIMEOUT_S, NotExecuted, SentinelStorePool, StorePool

SENTINEL_SCHEME = "sentinel://"
SCHEMES = ("redis://", "rediss://", "unix://", SENTINEL_SCHEME)

REFUSAL_CODES = frozenset(
    {
        "BUSY",  # a script runs for too long
        "CLUSTERDOWN",
        "CROSSSLOT",  # a server in cluster mode, which no worker starts at
        "LOADING",
        "MASTERDOWN",
        "MISCONF",  # the last save failed
        "MOVED",  # another server of a cluster has the key
        "NOPERM",
        "NOREPLICAS",  # fewer replicas than `min-replicas-to-write`
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",  # a blocking command was ended because the server became a replica
    }
)
"""First words of the error replies that are an outage. OOM is none: reads and acknowledgements continue."""

NO_DATABASE = "DB index is out of range"
"""The error reply to a connection to a database that the server does not have; no command can be executed."""

_SENTINEL_PORT = 26379

SENTINEL_TIMEOUTS: Mapping[str, Any] = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}
"""How long one Sentinel may be silent before the next one is asked, in seconds."""


class ServerRefused(NotExecuted):
    """The server answered with an error reply that is an outage. The command was not executed."""


ERROR_REPLIES = (ResponseError, BusyLoadingError)
"""Errors of redis-py for error replies. It takes a server that loads its data for a lost connection."""


def refusal_of(error: ResponseError | BusyLoadingError) -> ServerRefused | None:
    """Return the outage that an error reply tells; None if the command itself is wrong."""
    # redis-py removes the first word of the errors that it has a class for.
    code = "LOADING" if isinstance(error, BusyLoadingError) else error.status_code or str(error).partition(" ")[0]
    if "non local key" in str(error):  # what a script tells in cluster mode
        code = "CROSSSLOT"
    if code not in REFUSAL_CODES and NO_DATABASE not in str(error):
        return None
    return ServerRefused(f"the server refuses commands: {code} {str(error).removeprefix(code).strip()}")


class _Refusals:
    """Disconnect at an error reply that is an outage."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        connection: Any = super()
        try:
            return connection.read_response(*args, **options)
        except ERROR_REPLIES as error:
            if (refusal := refusal_of(error)) is None:
                raise
            connection.disconnect()
            raise refusal from error


def watch_refusals(connection_class: type[Any]) -> type[Any]:
    """Return a subclass of a connection class of redis-py that raises ServerRefused."""
    return type(connection_class.__name__, (_Refusals, connection_class), {})


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """An address of Sentinel: its hosts, and the server's database and account. Sentinel's own account is an option."""

    hosts: tuple[tuple[str, int], ...]
    db: int
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, address: str) -> SentinelAddress:
        """Parse an address that `split_master_name` returned. Raises ValueError for an invalid port or database."""
        parts = [urlsplit(part) for part in address.split(";")]
        first = parts[0]
        return cls(
            hosts=tuple((unquote(part.hostname or "127.0.0.1"), part.port or _SENTINEL_PORT) for part in parts),
            db=int(first.path.strip("/") or 0),
            username=unquote(first.username) if first.username else None,
            password=unquote(first.password) if first.password else None,
        )

    @property
    def credentials(self) -> dict[str, Any]:
        """The options of a connection to the server."""
        return {"db": self.db, "username": self.username, "password": self.password}


def split_master_name(address: str) -> tuple[str, str | None]:
    """Return a `sentinel://` address without `?master_name=…`, and that name; other addresses are unchanged.

    Database and account may stand at any of the hosts. Here they stand at all, because kombu reads those of the first.
    """
    if not address.startswith(SENTINEL_SCHEME):
        return address, None
    parts = [urlsplit(part) for part in address.split(";")]
    names = [name for part in parts for name in parse_qs(part.query).get("master_name", ())]
    account = next((part.netloc.rpartition("@")[0] for part in parts if "@" in part.netloc), "")
    path = next((part.path for part in parts if part.path.strip("/")), "/0")
    hosts = [part.netloc.rpartition("@")[2] for part in parts]
    return ";".join(f"{SENTINEL_SCHEME}{account}{'@' if account else ''}{host}{path}" for host in hosts), names[
        -1
    ] if names else None


def open_client(address: str, sentinel: Mapping[str, Any], **options: Any) -> Redis:
    """Create a client for an address. It repeats no command: only the caller knows whether a repeat is harmless.

    Args:
        address: one of SCHEMES.
        sentinel: `master_name`, unless the address has it; `sentinel_kwargs`, `min_other_sentinels`.
        options: further options of redis-py's client.

    Raises:
        ValueError: the address of a Sentinel names no master.
    """
    options |= {"retry": Retry(NoBackoff(), 0), "timeout": FREE_CONNECTION_TIMEOUT_S}
    if not address.startswith(SENTINEL_SCHEME):
        kinds = {"rediss": SSLConnection, "unix": UnixDomainSocketConnection}
        kind = kinds.get(urlsplit(address).scheme, Connection)
        return Redis.from_pool(StorePool.from_url(address, connection_class=watch_refusals(kind), **options))
    parts, name, asked = sentinel_options(address, sentinel, options["retry"])
    manager: Any = Sentinel(parts.hosts, **asked)  # type: ignore[no-untyped-call]  # redis-py has no types here
    managed = watch_refusals(SentinelManagedConnection)
    options |= {"connection_class": managed, "connection_pool_class": SentinelStorePool}
    client: Redis = manager.master_for(name, **parts.credentials, **options)
    return client


def sentinel_options(
    address: str, sentinel: Mapping[str, Any], retry: Any
) -> tuple[SentinelAddress, str, dict[str, Any]]:
    """Return the parts of the address, the master's name, and how to ask the Sentinels. Raises ValueError."""
    hosts, name = split_master_name(address)
    name = name or sentinel.get("master_name")
    if not name:
        raise ValueError("the address names no master: append ?master_name=NAME, the name that Sentinel monitors")
    asked = {
        "min_other_sentinels": sentinel.get("min_other_sentinels", 0),
        "sentinel_kwargs": {**SENTINEL_TIMEOUTS, "retry": retry, **(sentinel.get("sentinel_kwargs") or {})},
    }
    return SentinelAddress.parse(hosts), name, asked
