"""Addresses: check the URLs of broker and state store, and convert them to those of kombu, redis-py and our transport.

    redis://:PASSWORD@HOST:PORT/DB    rediss://…    unix:///PATH?db=N    valkey://… and valkeys://… are the same
    sentinel://HOST:PORT;sentinel://HOST:PORT       amqp://USER:PASSWORD@HOST:PORT/VHOST    amqps://…

Every address is checked here, before anything connects. No error shows more of it than its scheme: a password that is
not escaped may stand anywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES
from redis import ConnectionPool
from redis.exceptions import RedisError

from petiole.events.errors import NotConfigured

PREFIX = "petiole+"
SCHEMES = ("redis", "rediss", "socket", "sentinel")

_REDIS = frozenset({"redis", "rediss", "redis+socket", "sentinel"})
_SYNONYMS = {"valkey": "redis", "valkeys": "rediss", "unix": "redis+socket", "redis+unix": "redis+socket"}
_SERVED = "redis://, rediss://, unix://, sentinel://, amqp:// or amqps://"
_SECRETS = re.compile(r"(://[^\s:/@;]*):[^\s;\"]*@|((?:^|[?&])\w*password=)[^\s&;]*", re.IGNORECASE)

_PLAIN_URL = re.compile(r"([\w+.-]+://)?([\w.-]*|\[[\da-fA-F:.]+\])(:\d{1,5})?(/[^@:]*)?(\?[^@]*)?", re.ASCII)


def mask_secrets(text: str) -> str:
    """Replace the passwords of all URLs in a text by ***; they may contain characters that are not escaped."""
    return _SECRETS.sub(lambda found: f"{found[2] or f'{found[1]}:'}***{'' if found[2] else '@'}", text)


def mask_address(value: str) -> str:
    """Replace the account of each address in a list by ***: it may have any character that is not escaped."""
    return ";".join(map(_mask_url, re.split(r";(?=[\w+.-]+://)", value)))


def _mask_url(url: str) -> str:
    if _PLAIN_URL.fullmatch(url):
        return mask_secrets(url)
    scheme, separator, rest = url.partition("://")
    _, at, host = rest.rpartition("@")
    # Without an @, all of it may be part of a password.
    return f"{scheme}://***{mask_secrets(at + host) if at else ''}" if separator else "***"


@lru_cache
def check_broker_address(address: str) -> str:
    """Check the address of a broker, or several that are separated by `;`. Returns it as kombu reads it.

    Raises NotConfigured.
    """
    urls = [_check_broker_url(url) for url in address.split(";")] if address else []
    if len({urlsplit(url).scheme in _REDIS for url in map(_without_prefix, urls)}) > 1:
        raise _broker_error("its addresses are of different kinds; give several of one kind, separated by ';'")
    return ";".join(urls)


@lru_cache
def check_state_address(address: str) -> str:
    """Check the address of a state store. Returns it as redis-py reads it. Raises NotConfigured."""
    urls = [_check_state_url(url) for url in address.split(";")] if address else []
    if len(urls) > 1 and not all(url.startswith("sentinel://") for url in urls):
        raise _state_error("it has several addresses; give one server, or the addresses of Sentinel")
    return ";".join(urls)


def result_backend(address: str | None) -> str | None:
    """Return the address for Celery's results if they can be kept there: one Redis, or Sentinel."""
    try:
        checked = check_broker_address(address or "")
    except NotConfigured:
        return None  # raised again where the address is used; Celery only logs what a configuration raises
    is_kept = urlsplit(checked).scheme in _REDIS and (";" not in checked or checked.startswith("sentinel://"))
    return checked if is_kept else None


def redis_address(address: str) -> str:
    """Convert the checked address of a broker to one that redis-py reads."""
    return address.replace("redis+socket:", "unix:").replace("virtual_host=", "db=")


def _check_broker_url(url: str) -> str:
    scheme, separator, rest = _without_prefix(url).partition("://")
    scheme = _SYNONYMS.get(scheme.lower(), scheme.lower())
    if problem := _problem_of(scheme, separator, rest):
        raise _broker_error(problem)
    if scheme == "redis+socket":
        rest = re.sub(r"(?<=[?&])db=", "virtual_host=", rest)
    # Kombu takes the other options of Sentinel from `broker_transport_options`.
    known = rest.partition("?")[0] if scheme == "sentinel" else rest
    try:
        Connection(f"{scheme}://{known}")
    except (TypeError, ValueError, KeyError):
        if scheme in _REDIS:
            raise _broker_error(f"{_options(rest)}: set them in `broker_transport_options`") from None
        raise _broker_error(f"there is no broker for {_shown(scheme)}; use {_SERVED}") from None
    checked = f"{scheme}://{rest}"
    return with_transport_prefix(checked) if url.startswith(PREFIX) else checked


def _check_state_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    scheme = _SYNONYMS.get(scheme.lower(), scheme.lower())
    if problem := _problem_of(scheme, separator, rest):
        raise _state_error(problem)
    if scheme not in _REDIS:
        raise _state_error(f"{_shown(scheme)} is no Redis")
    if scheme == "sentinel":
        return f"{scheme}://{rest}"
    converted = redis_address(f"{scheme}://{rest}")
    try:
        ConnectionPool.from_url(converted).make_connection()
    except (TypeError, ValueError, RedisError):
        raise _state_error(f"{_options(rest)}: remove them") from None
    return converted


def _problem_of(scheme: str, separator: str, rest: str) -> str | None:
    """Return what is wrong with the parts of a URL; None if nothing is."""
    if not separator:
        return f"its address has no scheme; begin it with {_SERVED}"
    if "cluster" in scheme:
        return (
            "Redis Cluster is not served, because one script writes keys of several slots; use one server or Sentinel"
        )
    options = parse_qsl(rest.partition("?")[2], keep_blank_values=True)
    databases = [value for name, value in options if name in {"db", "virtual_host"}]
    if scheme == "redis+socket" and not all(re.fullmatch("[0-9]+", database) for database in databases):
        return "the `db` of its address is no database number; write it as unix:///PATH?db=0"
    has_host = scheme in _REDIS - {"redis+socket"} or scheme in {"amqp", "amqps", "pyamqp"}
    return next(_problems_of_host(scheme, rest), None) if has_host else None


def _problems_of_host(scheme: str, rest: str) -> Iterator[str]:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        yield "its password has a character that is not escaped; write '/' as %2F, '?' as %3F, '#' as %23, '@' as %40"
    if re.fullmatch(r"[0-9a-fA-F]*(:[0-9a-fA-F.]*){2,}", authority.rpartition("@")[2]):
        yield f"its host is an IPv6 address without brackets; write it as {scheme}://[::1]:PORT"
    if "," in authority.rpartition("@")[2]:
        yield f"its hosts are separated by ','; give several as {scheme}://HOST1;{scheme}://HOST2"
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        path = parts.path if parts.port != 0 else None
    except ValueError:
        path = None
    if path is None:
        yield (
            "its port is no number from 1 to 65535, or its password has a character that is not escaped; "
            "write '/' as %2F, '[' as %5B, ':' as %3A, ';' as %3B"
        )
    elif scheme in _REDIS and path not in {"", "/"} and not re.fullmatch("[0-9]+", path.strip("/")):
        yield "the path of its address is no database number; write it as redis://HOST:6379/0"


def _options(rest: str) -> str:
    names = ", ".join(dict.fromkeys(name for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)))
    return f"the options of its address ({names}) are not served"


def _shown(scheme: str) -> str:
    return f"{scheme}://" if re.fullmatch(r"[a-z][a-z0-9+]{0,30}", scheme) else "its scheme"


def _broker_error(problem: str) -> NotConfigured:
    return NotConfigured("the broker", f"{problem} (PETIOLE_BROKER_URL, or Celery's broker_url)")


def _state_error(problem: str) -> NotConfigured:
    return NotConfigured(
        "the state store", f"{problem}; set PETIOLE_STATE_URL to a Redis or Valkey, such as redis://HOST:6379"
    )


def is_allowed_host(header: str, names: Collection[str]) -> bool:
    """Return whether a Host header is an IP address, which DNS cannot rebind, or one of these names."""
    host = _hostname_of(f"//{header}")
    try:
        ip_address(host)
    except ValueError:
        return "@" not in header and host.rstrip(".") in names
    return True


def _hostname_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


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
