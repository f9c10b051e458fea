"""The connections of connections.py for asyncio. Only processes that read in an event loop import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection
from redis.backoff import NoBackoff

from petiole.tasks.stores.connections import ERROR_REPLIES, SENTINEL_SCHEME, refusal_of, sentinel_options


class _Refusals:
    """Disconnect at an error reply that is an outage."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        connection: Any = super()
        try:
            return await connection.read_response(*args, **options)
        except ERROR_REPLIES as error:
            if (refusal := refusal_of(error)) is None:
                raise
            await connection.disconnect(nowait=True)
            raise refusal from error


def open_async_client(address: str, sentinel: Mapping[str, Any], **options: Any) -> Redis:
    """Create a client for the running event loop, as `open_client` of connections.py."""
    options["retry"] = Retry(NoBackoff(), 0)
    if not address.startswith(SENTINEL_SCHEME):
        kinds: dict[str, type[Any]] = {"rediss": SSLConnection, "unix": UnixDomainSocketConnection}
        kind = kinds.get(urlsplit(address).scheme, Connection)
        return Redis.from_url(address, connection_class=_watch_refusals(kind), **options)
    parts, name, asked = sentinel_options(address, sentinel, options["retry"])
    manager: Any = Sentinel(list(parts.hosts), **asked)  # type: ignore[no-untyped-call]  # redis-py has no types here
    managed = _watch_refusals(SentinelManagedConnection)
    client: Redis = manager.master_for(name, connection_class=managed, **parts.credentials, **options)
    return client


def _watch_refusals(connection_class: type[Any]) -> type[Any]:
    return type(connection_class.__name__, (_Refusals, connection_class), {})
