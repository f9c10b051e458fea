"""The client of a channel: one Redis client for all its commands, whose connections have the process's name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from kombu.transport import redis as stock

from petiole.tasks.stores.connections import watch_refusals
from petiole.tasks.stores.keys import Keys
from petiole.tasks.transport.commands import TransportCommands
from petiole.tasks.transport.consumer_id import connection_name

if TYPE_CHECKING:

    class _Stock(stock.Channel):
        # Kombu's private attributes, which the stubs leave out.
        _basic_cancel: Any
        _after_fork: Any
        _connparams: Any
        _get_pool: Any
        _put: Any
        qos: Any  # QoS of transport/qos.py; the stubs describe kombu's

        def __getattr__(self, name: str) -> Any: ...
else:
    _Stock = object


_builds_pool = threading.local()


class ClientChannel(_Stock):
    """A channel of kombu's that reuses one client."""

    state_prefix = ""
    _transport: Any = None

    def __init__(self, *args: Any, **options: Any) -> None:
        self._cached_client: Any = None
        self._cached_commands: TransportCommands | None = None
        self.consumer_id = ""
        super().__init__(*args, **options)

    @contextmanager
    def conn_or_acquire(self, client: Any | None = None) -> Iterator[Any]:
        """Yield the cached client. It takes a pooled connection per command, so threads may share it."""
        if self._cached_client is None or self._cached_client.connection_pool is not self.pool:
            self._cached_client = self._create_client()
        yield client or self._cached_client

    @property
    def _commands(self) -> TransportCommands:
        if self._cached_commands is None or self._cached_commands.client.connection_pool is not self.pool:
            client = redis.Redis(connection_pool=self.pool)
            self._cached_commands = TransportCommands(client, self._keys.prefix, self.consumer_id, self.priority_steps)
        return self._cached_commands

    @property
    def _keys(self) -> Keys:
        # Without a bus, apps that share a server are told apart by kombu's prefix alone.
        return Keys(self.state_prefix or f"{self.global_keyprefix}petiole")

    def check_writable(self) -> None:
        """Raise ConnectionError if the server refuses writes: a replica accepts connections, too."""
        # Nothing has this name. A full server accepts a deletion.
        self._commands.client.delete(f"{self._keys.prefix}:writable")

    def use_consumer_id(self, consumer_id: str) -> None:
        """Lease under this id from now on."""
        self.consumer_id, self._cached_commands = consumer_id, None

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        parameters = super()._connparams(asynchronous)
        parameters["connection_class"] = watch_refusals(parameters["connection_class"])
        return parameters | {"client_name": connection_name()}

    @property
    def connection(self) -> Any:
        """The transport, or its address: what kombu reads from it to build a pool has our prefix, and is refused."""
        transport = self._transport
        return transport.address if transport is not None and getattr(_builds_pool, "now", False) else transport

    @connection.setter
    def connection(self, transport: Any) -> None:
        self._transport = transport

    def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        _builds_pool.now = True
        try:
            return super()._get_pool(asynchronous)
        finally:
            _builds_pool.now = False

    def _key(self, name: str) -> str:
        return f"{self.global_keyprefix}{name}"
