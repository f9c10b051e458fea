"""The console: what happens in a bus, seen in a browser, and the engines of the command line behind buttons.

    application = create_console(bus)                        an ASGI application
    app.mount("/petiole", create_console(bus, authenticate=mine))

A page is a function that takes a Visit and returns a response; pages.py lists them. Needs the extra `console`; this
module does not, and says whether the extra is there.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from petiole.events.errors import missing_extra
from petiole.tasks.runtime import BusRuntime

if TYPE_CHECKING:
    from petiole.workers.console.breakable import Breakable
    from petiole.workers.gateways.access import AccessControl, AccessLimits
    from petiole.workers.gateways.identities import Authenticate

__all__ = ["create_console", "is_installed"]

CONSOLE_PORT: Final = 8766
_PACKAGES: Final = ("jinja2", "sse_starlette", "starlette", "uvicorn")


def is_installed() -> bool:
    """Return whether the packages of the extra `console` are installed."""
    return all(find_spec(package) for package in _PACKAGES)


def create_console(
    bus: BusRuntime,
    *,
    authenticate: Authenticate | None = None,
    trusts_loopback: bool = False,
    hosts: Collection[str] = (),
    limits: AccessLimits | None = None,
    breakable: Breakable | None = None,
) -> AccessControl:
    """Create the ASGI application of the console.

    Args:
        bus: the bus to show.
        authenticate: returns who calls, or None; asked before the issuer of the settings and `PETIOLE_HOME/tokens`.
        trusts_loopback: whether callers on this machine need no token. Leave it off behind a proxy.
        hosts: names, besides localhost, under which browsers reach it.
        limits: of requests.
        breakable: the system of the demo, which its page Break it breaks. Leave it out.

    Raises:
        UsageError: (missing_extra) the extra `console` is not installed; (unusable_token_file); (missing_setting).
    """
    if not is_installed():
        raise missing_extra("the console", "console")
    from petiole.workers.console.pages import build_pages  # noqa: PLC0415 - needs an extra
    from petiole.workers.gateways.access import AccessControl  # noqa: PLC0415 - as above
    from petiole.workers.gateways.authentication import create_authenticator  # noqa: PLC0415 - as above

    authenticator = create_authenticator(bus, authenticate, trusts_loopback=trusts_loopback)
    return AccessControl(
        build_pages(bus, authenticator.tokens, breakable),
        authenticator,
        hosts=hosts,
        limits=limits,
        public_paths=("/static/",),
        sign_in_path="/sign-in",
    )
