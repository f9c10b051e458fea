"""Connection pool of the state store: more threads than connections wait for one.

Before there is a connection, nothing has been sent. Such an error is a `NotExecuted`, so that callers can tell it from
a connection that was lost during a command, whose outcome is unknown.
"""

from __future__ import annotations

from typing import Any

from redis import BlockingConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelConnectionPool

FREE_CONNECTION_TIMEOUT_S = 10.0
"""How long a thread waits for a connection that is not in use."""


class NotExecuted(RedisConnectionError):  # noqa: N818 - named as Petiole's own errors
    """The server could not be reached, or refused; no command was executed."""


class NoFreeConnection(NotExecuted):
    """All connections of the pool stayed in use for its timeout; no command was sent."""


class StorePool(BlockingConnectionPool):
    """A pool of at most `max_connections` connections; who needs another one waits for up to `timeout` seconds."""

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Take a connection of the pool. Raises NotExecuted."""
        try:
            return super().get_connection(*args, **options)  # type: ignore[no-untyped-call]  # redis-py's
        except NotExecuted:
            raise
        except (RedisConnectionError, RedisTimeoutError) as error:
            if str(error) == "No connection available.":
                raise NoFreeConnection(self._describe_use()) from error
            raise NotExecuted(str(error)) from error

    def _describe_use(self) -> str:
        return f"all {self.max_connections} connections of this process were in use for {self.timeout:g} s"


class SentinelStorePool(SentinelConnectionPool, StorePool):
    """The same for the server that Sentinel names."""
