"""Connection pool of the state store: more threads than connections wait for one.

Before there is a connection, nothing has been sent. Such an error is a `NotExecuted`, so that callers can tell it from
a connection that was lost during a command, whose outcome is unknown.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any

from redis import BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelConnectionPool

FREE_CONNECTION_TIMEOUT_S = 10.0
"""How long a thread waits for a connection that is not in use."""


TRUSTED_FOR_S = 0.05
"""How long after its use a connection is used again without asking the system whether the server has closed it."""


class NotExecuted(RedisConnectionError):  # noqa: N818 - named as Petiole's own errors
    """The server could not be reached, or refused; no command was executed."""


class NoFreeConnection(NotExecuted):
    """All connections of the pool stayed in use for its timeout; no command was sent."""


class StorePool(BlockingConnectionPool):
    """A pool of at most `max_connections` connections; who needs another one waits for up to `timeout` seconds.

    What redis-py does to lend a connection takes a third of a publish's time in Python. So a thread that uses one again
    at once gets the one that was returned last, without it.
    """

    _returned: deque[tuple[Any, float]]
    _waiting: deque[None]

    def reset(self) -> None:
        """Forget all connections, for example those of a parent process."""
        self._returned, self._waiting = deque(), deque()
        super().reset()  # type: ignore[no-untyped-call]  # redis-py's, as all below

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Take a connection of the pool. Raises NotExecuted."""
        self._checkpid()
        connection = self._take_returned()
        if connection is not None:
            return connection
        # Counted first: who returns a connection from now on returns it to redis-py's pool.
        self._waiting.append(None)
        try:
            self._return_to_pool()
            return super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        except NotExecuted:
            raise
        except (RedisConnectionError, RedisTimeoutError) as error:
            if str(error) == "No connection available.":
                raise NoFreeConnection(self._describe_use()) from error
            raise NotExecuted(str(error)) from error
        finally:
            self._waiting.pop()

    def release(self, connection: Any) -> None:
        """Return a connection."""
        if connection.should_reconnect() or os.getpid() != self.pid or not self.owns_connection(connection):
            super().release(connection)  # type: ignore[no-untyped-call]
            return
        self._returned.append((connection, monotonic()))
        if self._waiting:
            self._return_to_pool()

    def disconnect(self, *args: Any, **options: Any) -> None:
        """Close the connections that are not in use, or all."""
        self._checkpid()
        while self._returned:
            self._return_to_pool()
        super().disconnect(*args, **options)

    def _take_returned(self) -> Any:
        try:
            connection, at = self._returned.pop()
        except IndexError:
            return None
        if connection.is_connected and monotonic() - at < TRUSTED_FOR_S:
            return connection
        super().release(connection)  # type: ignore[no-untyped-call]
        return None

    def _return_to_pool(self) -> None:
        with suppress(IndexError):
            connection, _ = self._returned.pop()
            super().release(connection)  # type: ignore[no-untyped-call]

    def _describe_use(self) -> str:
        return f"all {self.max_connections} connections of this process were in use for {self.timeout:g} s"


class SentinelStorePool(SentinelConnectionPool, StorePool):
    """The same for the server that Sentinel names."""
