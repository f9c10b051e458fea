"""The surfaces that speak HTTP, each with a request that reads, one that changes, and what both are answered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from petiole.tasks import EventBus
from petiole.workers.console import create_console
from petiole.workers.gateways.application import create_application

ADMIN, ADA, BOB, VIEWER, OPERATOR = (
    f"{name}-has-a-token-of-letters" for name in ("admin", "ada", "bob", "viewer", "operator")
)
BOB += "/+=&"  # not every character of a token is one of a WebSocket's subprotocol
TOKENS = f"""\
admin admin {ADMIN}
ada user {ADA} ada
bob user {BOB} bob
viewer viewer {VIEWER}
operator operator {OPERATOR}
"""


@dataclass(frozen=True)
class Surface:
    """An application, and two requests that it answers with these statuses if nothing is wrong with them."""

    create: Callable[..., ASGIApp]
    read: str
    read_status: int
    change: str
    change_status: int


def mount(bus: EventBus, **options: Any) -> ASGIApp:
    """Mount the gateways in an application of one's own."""
    return Starlette(routes=[Mount("/agents", create_application(bus, **options))])


SURFACES = {
    "petiole console": Surface(create_console, "/catalog", 200, "/why", 403),
    "petiole serve": Surface(create_application, "/ag-ui/threads/t/runs/none", 404, "/streams/attacked/messages", 415),
    "an application of one's own": Surface(
        mount, "/agents/ag-ui/threads/t/runs/none", 404, "/agents/streams/attacked/messages", 415
    ),
}
