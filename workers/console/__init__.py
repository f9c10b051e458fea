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
    from petiole.workers.gateways.identities import Application, Authenticate, RequestLimits

__all__ = ["create_console", "is_installed"]

CONSOLE_PORT: Final = 8766
TOKEN_FILE: Final = "tokens"  # noqa: S105 - a file's name
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
    limits: RequestLimits | None = None,
    breakable: Breakable | None = None,
) -> Application:
    """Create the ASGI application of the console.

    Args:
        bus: the bus to show.
        authenticate: returns who calls, or None; without it, callers send a token of `PETIOLE_HOME/tokens`.
        trusts_loopback: whether callers on this machine need no token. Leave it off behind a proxy.
        hosts: names, besides localhost, under which browsers reach it.
        limits: of requests.
        breakable: the system of the demo, which its page Break it breaks. Leave it out.

    Raises:
        UsageError: (missing_extra) the extra `console` is not installed; (unusable_token_file).
    """
    if not is_installed():
        raise missing_extra("the console", "console")
    from petiole.workers.console.pages import build_pages  # noqa: PLC0415 - needs an extra
    from petiole.workers.gateways.identities import IdentityMiddleware  # noqa: PLC0415 - as above
    from petiole.workers.gateways.tokens import TokenFile  # noqa: PLC0415 - as above

    tokens = TokenFile(bus.settings.home / TOKEN_FILE)
    return IdentityMiddleware(
        build_pages(bus, tokens, breakable),
        tokens=tokens,
        authenticate=authenticate,
        trusts_loopback=trusts_loopback,
        hosts=hosts,
        limits=limits,
        sign_in_path="/sign-in",
        public_path="/static/",
    )
