"""Where push notifications may be posted: the guard against requests to servers that a client should not reach (SSRF).

A client of a protocol names the URL. It is allowed if its host is one of PETIOLE_PUSH_HOSTS. With `*`, every other host
is allowed too, unless one of its addresses is not public. `http://` is allowed for loopback addresses only.

A name is resolved once for each post, and the post goes to the address that was checked: a name cannot be given another
address in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from petiole.events.errors import UsageError

ANY_HOST: Final = "*"
MAX_URL_LENGTH: Final = 2_048

_RESOLVE_TIMEOUT_S: Final = 5.0
_Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class PushTarget:
    """A URL and the address that was checked for it."""

    url: SplitResult
    address: str

    @property
    def address_url(self) -> str:
        """The URL with the address in place of the name."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        port = f":{self.url.port}" if self.url.port else ""
        return self.url._replace(netloc=host + port, fragment="").geturl()

    @property
    def hostname(self) -> str:
        """The name of the server, for TLS."""
        return self.url.hostname or ""


async def resolve_target(url: str, allowed_hosts: Collection[str]) -> PushTarget:
    """Resolve the host of a URL, and check it.

    Raises: UsageError (push_url_refused) with the reason; OSError if the name cannot be resolved now.
    """
    parts = _split(url)
    host = parts.hostname or ""
    is_named = host in allowed_hosts
    if not is_named and ANY_HOST not in allowed_hosts:
        raise _refused(url, f"the host {host!r} is not allowed; ask the operator to add it to PETIOLE_PUSH_HOSTS")
    addresses = await _resolve(parts)
    if not is_named and not all(map(_is_public, addresses)):
        raise _refused(url, f"the host {host!r} has an address that is not public; give a public one")
    if parts.scheme == "http" and not all(address.is_loopback for address in addresses):
        raise _refused(url, "it is http://, so anyone on the way reads the notifications; give an https:// URL")
    return PushTarget(parts, str(addresses[0]))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError
    except ValueError as error:
        raise _refused(url, f"it is malformed ({error}); give an https:// URL") from error
    is_plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_URL_LENGTH
    if not is_plain or parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise _refused(url, f"give an https:// URL of at most {MAX_URL_LENGTH} ASCII characters, without a user")
    return parts


async def _resolve(parts: SplitResult) -> Sequence[_Address]:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    # A zone, as in fe80::1%eth0, is no part of the address.
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _is_public(address: _Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_global and not (mapped or address).is_multicast


def _refused(url: str, reason: str) -> UsageError:
    return UsageError(f"url {url[:200]!r} is refused: {reason}", code="push_url_refused")
