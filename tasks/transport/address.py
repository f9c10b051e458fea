"""Addresses: the URLs of our transport, and kombu's URLs for them."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

PREFIX = "petiole+"
SCHEMES = ("redis", "rediss", "socket", "sentinel")


def register_transport() -> None:
    """Register the URLs with kombu. Safe to repeat."""
    # Kombu splits petiole+redis://… at the plus sign, except when it fails over to another address.
    for alias in ("petiole", *(PREFIX + scheme for scheme in SCHEMES)):
        TRANSPORT_ALIASES[alias] = "petiole.tasks.transport.transport:Transport"


def with_transport_prefix(url: str) -> str:
    """Add our prefix to the URL of a Redis broker; other URLs are returned unchanged."""
    addresses = url.replace("redis+socket://", "socket://").split(";")
    is_served = all(address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)) for address in addresses)
    return ";".join(PREFIX + address for address in addresses) if is_served else url


def without_transport_prefix(url: str) -> str:
    """Return the URL that kombu's own transport and redis-py accept."""
    return ";".join(_without_prefix(address) for address in url.split(";"))


def _without_prefix(address: str) -> str:
    # Kombu's scheme for a socket contains a plus sign.
    stock = address.removeprefix(PREFIX)
    return f"redis+{stock}" if stock.startswith("socket://") else stock


def kombu_connection(client: Any) -> Connection:
    """Return kombu's connection for the address without our prefix; it is never opened."""
    if "://" not in client.hostname:
        # After a failover, kombu has parsed the other address, but still has the first one's prefix.
        client.uri_prefix = None
    _, _, scheme = str(client.transport_cls).partition("+")
    addresses: Any = [
        without_transport_prefix(client.hostname),
        *map(without_transport_prefix, client.alt),
    ]  # the stubs allow one only
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
