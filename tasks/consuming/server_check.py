"""Refuse servers that evict keys, which would lose subscriptions and deliveries without an error, and clusters.

Checked before a worker's pool starts, if the servers answer then, and when the worker has connected.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.errors import NotConfigured, UsageError
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.connections import NO_DATABASE, ServerRefused

log = logging.getLogger(__name__)

_SAFE_POLICY = "noeviction"
_UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OperationalError)


def check_servers(bus: BusRuntime) -> None:
    """Raise UsageError if the broker or the state store cannot be used; one that does not answer is not checked."""
    if bus.driver == "memory":
        return  # in this process, where all keys are kept
    with suppress(*_UNREACHABLE):
        _check_server(bus.state_store_name, bus.redis)
    if bus.driver == "redis" and bus.has_own_state_store:
        with suppress(*_UNREACHABLE), bus.app.connection_for_read() as connection, connection.channel() as channel:
            redis_channel: Any = channel  # kombu's stubs type only what all transports share
            _check_server("the broker", redis_channel.client)


def _check_server(name: str, client: Any) -> None:
    try:
        policy = client.info("memory").get("maxmemory_policy", _SAFE_POLICY)
        is_in_cluster = bool(client.info("cluster").get("cluster_enabled"))
    except ServerRefused as refusal:
        if NO_DATABASE in str(refusal):
            remedy = "the server has no database of this number; correct its address, or raise the server's `databases`"
            raise NotConfigured(name, remedy) from refusal
        # An account may lack the right to ask.
        log.warning("server.unchecked", extra={"server": name, "reason": str(refusal)})
        return
    if is_in_cluster:
        raise UsageError(
            f"{name} runs in cluster mode, which is not served, because one script writes keys of several slots; "
            "use one server, or Sentinel",
            code="server_in_cluster",
        )
    if policy != _SAFE_POLICY:
        raise UsageError(
            f"{name} evicts keys when its memory is full (maxmemory-policy {policy}), so subscriptions and deliveries "
            f"could be lost; set maxmemory-policy {_SAFE_POLICY} at the server",
            code="server_evicts",
        )
