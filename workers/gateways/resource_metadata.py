"""Resource metadata: tells a client of MCP that has no token which issuer gives one.

    401 for /mcp, with WWW-Authenticate: Bearer resource_metadata="URL"
    GET /.well-known/oauth-protected-resource/mcp      the document at that URL

Both need an issuer (PETIOLE_OIDC_ISSUER): tokens of the token file are handed over by hand.

Source: RFC 9728; Model Context Protocol, Authorization.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from petiole.workers.settings import WorkerSettings

MCP_PATH: Final = "/mcp"

_METADATA_PATH: Final = f"/.well-known/oauth-protected-resource{MCP_PATH}"


def build_metadata_routes() -> list[BaseRoute]:
    """Build the route of the document; none without an issuer."""
    issuer = WorkerSettings().oidc_issuer

    async def describe(request: Request) -> Response:
        document = {
            "resource": build_address(request, MCP_PATH),
            "authorization_servers": [issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": "Petiole",
        }
        return JSONResponse(document)

    return [] if issuer is None else [Route(_METADATA_PATH, describe, methods=["GET"])]


def build_challenge(scope: Scope) -> str:
    """Build WWW-Authenticate for a request without a valid token."""
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    if path != MCP_PATH or WorkerSettings().oidc_issuer is None:
        return "Bearer"
    return f'Bearer resource_metadata="{build_address(HTTPConnection(scope), _METADATA_PATH)}"'


def build_address(connection: HTTPConnection, path: str) -> str:
    """Build the address of a path of the gateways, which may be mounted in another application."""
    # Not `base_url`: that is the address of the outermost application.
    root = str(connection.scope.get("root_path", "")).rstrip("/")
    return str(connection.url.replace(path=root + path, query="", fragment=""))
