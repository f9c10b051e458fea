"""Kombu compatibility: check the private names of kombu that the transport overrides or calls, and their parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual

from petiole.events.errors import unsupported_kombu

# The parameters after self; None for an attribute that is not called.
_EXPECTED: dict[Any, dict[str, str | None]] = {
    stock.Channel: {
        "_after_fork": "",
        "_basic_cancel": "consumer_tag",
        "_brpop_read": "options",
        "_brpop_start": "timeout",
        "_create_client": "asynchronous",
        "_delete": "queue exchange routing_key pattern args kwargs",
        "_flush_brpop_reauth": "",
        "_get_message_priority": "message reverse",
        "_get_pool": "asynchronous",
        "_lookup": "exchange routing_key default",
        "_put": "queue message kwargs",
        "_q_for_pri": "queue pri",
        "basic_consume": "queue args kwargs",
        "basic_get": "queue no_ack kwargs",
        "close": "",
        "conn_or_acquire": "client",
        "_closing": None,
        "_in_poll": None,
        "_brpop_sent_at": None,
        "active_queues": None,
        "pool": None,
        "sep": None,
        "unacked_index_key": None,
        "unacked_key": None,
        "unacked_restore_interval": None,
        "visibility_timeout": None,
    },
    stock.SentinelChannel: {"_get_pool": "asynchronous"},
    stock.QoS: {
        "_delivered": None,
        "_dirty": None,
        "ack": "delivery_tag",
        "append": "message delivery_tag",
        "reject": "delivery_tag requeue",
        "restore_unacked": "client",
        "restore_visible": "start num interval",
    },
    virtual.QoS: {"_flush": "", "can_consume_max_estimate": ""},
    stock.MultiChannelPoller: {
        "_update_brpop_polling": "",
        "get": "callback timeout",
        "maybe_restore_messages": "",
        "on_poll_start": "",
        "on_readable": "fileno",
    },
    getattr(stock, "PublishBatch", None): {"add": "name args"},
    stock.Transport: {"_deliver": "message queue", "register_with_event_loop": "connection loop"},
}


@cache
def check_kombu() -> None:
    """Raise UsageError (unsupported_kombu) if a name is missing or has other parameters. Checks once per process."""
    for owner, names in _EXPECTED.items():
        for name, difference in find_changed_names(owner, names):
            raise unsupported_kombu(f"{owner.__module__}.{owner.__qualname__}.{name}", difference, version("kombu"))


def find_changed_names(owner: Any, names: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """Yield each name that an object lacks, or that has other parameters, with what is different."""
    for name, expected in names.items():
        parameters = _parameters(owner, name)
        if parameters is None:
            yield name, "it is missing"
        elif expected is not None and parameters != expected.split():
            yield name, f"it takes ({', '.join(parameters)})"


def _parameters(owner: Any, name: str) -> list[str] | None:
    member = getattr(owner, name, None)
    if not hasattr(owner, name):
        return None
    return [name for name in inspect.signature(member).parameters if name != "self"] if callable(member) else []
