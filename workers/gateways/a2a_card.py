"""The agent card of A2A: what this gateway has, and which tokens it takes.

    GET  /.well-known/agent-card.json

Source: A2A 1.0.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import Final

from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    OpenIdConnectSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.a2a_push_configs import is_push_offered
from petiole.workers.gateways.identities import IDENTITY, bearer_token
from petiole.workers.gateways.resource_metadata import build_address
from petiole.workers.settings import WorkerSettings

_CARD_MAX_AGE_S: Final = 60


def build_card_route(bus: BusRuntime) -> Route:
    """Build the route of the card."""

    async def describe(request: Request) -> Response:
        has_push = await asyncio.to_thread(is_push_offered, bus)
        # Callers on loopback may need no token; whoever sends one reads the card of those who do.
        needs_token = request.scope.get(IDENTITY) is None or bearer_token(request) is not None
        card = build_card(
            build_address(request, "/a2a"), has_push=has_push, schemes=_security_schemes() if needs_token else {}
        )
        body = json.dumps(agent_card_to_dict(card)).encode()
        headers = {"Cache-Control": f"max-age={_CARD_MAX_AGE_S}", "ETag": f'"{sha256(body).hexdigest()[:32]}"'}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, headers=headers, media_type="application/json")

    return Route("/.well-known/agent-card.json", describe, methods=["GET"])


def build_card(url: str, *, has_push: bool, schemes: Mapping[str, SecurityScheme]) -> AgentCard:
    """Build the card of the agents at a URL. It promises what this gateway has, and no more; one scheme is enough."""
    skill = AgentSkill(
        id="converse",
        name="Converse",
        description="Answers messages, and calls the tools of its agents.",
        tags=["conversation", "tools"],
    )
    return AgentCard(
        name="Petiole",
        description="Agents on an event backbone.",
        version="1.0",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True, push_notifications=has_push, extended_agent_card=False),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain", "application/json"],
        skills=[skill],
        security_schemes=schemes,
        security_requirements=[SecurityRequirement(schemes={name: StringList()}) for name in schemes],
    )


def _security_schemes() -> dict[str, SecurityScheme]:
    """Build the schemes that the access control accepts: tokens of the token file, and those of the issuer."""
    bearer = HTTPAuthSecurityScheme(scheme="bearer", description="A token that the operator of this server has given.")
    schemes = {"bearer": SecurityScheme(http_auth_security_scheme=bearer)}
    if (issuer := WorkerSettings().oidc_issuer) is not None:
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        scheme = OpenIdConnectSecurityScheme(open_id_connect_url=url)
        schemes["openid"] = SecurityScheme(open_id_connect_security_scheme=scheme)
    return schemes
