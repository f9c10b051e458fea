"""Addresses: which URLs our transport serves, and what kombu makes of them without the prefix."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

PREFIX = "petiole+"
SCHEMES = ("redis", "rediss", "socket", "sentinel")


def register() -> None:
    """Make the URLs known to kombu; safe to repeat."""
    # Kombu splits petiole+redis://… at the plus, but not when it fails over to another address.
    for alias in ("petiole", *(PREFIX + scheme for scheme in SCHEMES)):
        TRANSPORT_ALIASES[alias] = "petiole.tasks.transport.transport:Transport"


def ours(url: str) -> str:
    """Choose our transport for a broker that it serves; other URLs are returned as they are."""
    addresses = url.replace("redis+socket://", "socket://").split(";")
    is_served = all(address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)) for address in addresses)
    return ";".join(PREFIX + address for address in addresses) if is_served else url


def plain(url: str) -> str:
    """Return the URL that kombu's own transport and redis-py understand."""
    return ";".join(_without_prefix(address) for address in url.split(";"))


def _without_prefix(address: str) -> str:
    # Kombu's name for a socket has a plus of its own.
    stock = address.removeprefix(PREFIX)
    return f"redis+{stock}" if stock.startswith("socket://") else stock


def stock_connection(client: Any) -> Connection:
    """Return the connection that kombu would make of the same address without our prefix; it is never opened."""
    if "://" not in client.hostname:
        # Kombu failed over to another address, which it has parsed, and kept the prefix of the first.
        client.uri_prefix = None
    _, _, scheme = str(client.transport_cls).partition("+")
    addresses: Any = [plain(client.hostname), *map(plain, client.alt)]  # the stubs know of one only
    return Connection(
        addresses,
        userid=client.userid,
        password=client.password,
        virtual_host=client.virtual_host,
        port=client.port,
        ssl=client.ssl,
        transport=None if "://" in client.hostname else scheme or "redis",
        transport_options=client.transport_options,
        credential_provider=client.credential_provider,
    )
