"""A chat in the browser, over AG-UI: `/chat` at the address of `petiole serve`. Needs the extra `agui`.

The page keeps the id of its thread and of the last run in the browser. After a reload it reads that run again, so that
an answer that is being written, or a question for approval, is there. It loads nothing from another server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from petiole.tasks.runtime import BusRuntime

_STATIC: Final = Path(__file__).parent / "static"
# The page shows texts of strangers. It may load only its own files, and send only to its own server.
_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes(_: BusRuntime) -> list[BaseRoute]:
    """Build the routes of the page and of its files."""

    async def page(_: Request) -> Response:
        headers = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
        return FileResponse(_STATIC / "chat.html", headers=headers)

    return [Route("/chat", page, methods=["GET"]), Mount("/chat", StaticFiles(directory=_STATIC))]
