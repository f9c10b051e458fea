"""The agent card of A2A: what the gateway offers. It promises what this gateway has, and no more."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from http import HTTPStatus
from typing import Final

from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.requests import Request
from starlette.responses import Response

from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.a2a_push_configs import is_push_offered

_MAX_AGE_S: Final = 60


async def answer_card(bus: BusRuntime, request: Request) -> Response:
    """Answer with the card, or that the client's copy is still valid."""
    base = str(request.base_url).rstrip("/")
    has_push = await asyncio.to_thread(is_push_offered, bus)
    body = json.dumps(agent_card_to_dict(build_card(f"{base}/a2a", has_push=has_push))).encode()
    headers = {"Cache-Control": f"max-age={_MAX_AGE_S}", "ETag": f'"{sha256(body).hexdigest()[:32]}"'}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def build_card(url: str, *, has_push: bool) -> AgentCard:
    """Build the card of the agents at a URL."""
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
    )
