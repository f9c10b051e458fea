"""Clients of A2A and MCP learn from the server which tokens it takes, with the official packages."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from a2a.client import create_client
from a2a.client.auth import AuthInterceptor, CredentialService
from a2a.client.client import ClientCallContext
from a2a.client.errors import A2AClientError
from a2a.helpers import new_text_part
from a2a.types import AgentCard, Message, Role, SendMessageConfiguration, SendMessageRequest
from google.protobuf.json_format import Parse
from mcp.client.auth.utils import (
    build_protected_resource_metadata_discovery_urls,
    extract_resource_metadata_from_www_auth,
)
from mcp.shared.auth import ProtectedResourceMetadata

from petiole.workers.gateways.application import create_application
from tests.contracts.channels.answers import serving
from tests.journeys.access.surfaces import ADA, mount

ISSUER = "https://login.example.org"


class Wallet(CredentialService):
    """Has a token for the scheme that it names."""

    def __init__(self, **tokens: str) -> None:
        self._tokens = tokens

    async def get_credentials(self, security_scheme_name: str, context: ClientCallContext | None) -> str | None:
        del context
        return self._tokens.get(security_scheme_name)


def read_card(url: str) -> AgentCard:
    card = AgentCard()
    Parse(httpx2.get(f"{url}/.well-known/agent-card.json").text, card)
    return card


def test_a_client_of_a2a_sends_the_token_that_the_card_asks_for(team):
    message = Message(message_id="m", role=Role.ROLE_USER, context_id="signed-in", parts=[new_text_part("x")])
    request = SendMessageRequest(message=message, configuration=SendMessageConfiguration(return_immediately=True))

    async def send(url: str, **tokens: str) -> list[Any]:
        async with await create_client(url, interceptors=[AuthInterceptor(Wallet(**tokens))]) as client:
            return [each async for each in client.send_message(request)]

    with serving(create_application(team.bus)) as url:
        assert asyncio.run(send(url, bearer=ADA))[0].task.context_id == "signed-in"
        with pytest.raises(A2AClientError, match="401"):
            asyncio.run(send(url, another=ADA))


def test_the_card_names_the_issuer_of_tokens_and_asks_for_none_where_none_is_needed(team, monkeypatch):
    with serving(create_application(team.bus, trusts_loopback=True)) as url:
        assert not read_card(url).security_schemes
        assert not read_card(url).security_requirements
    monkeypatch.setenv("PETIOLE_OIDC_ISSUER", ISSUER)
    monkeypatch.setenv("PETIOLE_OIDC_AUDIENCE", "petiole")
    with serving(create_application(team.bus)) as url:
        card = read_card(url)

    schemes = card.security_schemes
    assert schemes["bearer"].http_auth_security_scheme.scheme == "bearer"
    discovery = f"{ISSUER}/.well-known/openid-configuration"
    assert schemes["openid"].open_id_connect_security_scheme.open_id_connect_url == discovery
    assert [list(each.schemes) for each in card.security_requirements] == [["bearer"], ["openid"]]


@pytest.mark.parametrize(("create", "path"), [(create_application, ""), (mount, "/agents")], ids=["served", "mounted"])
def test_a_client_of_mcp_without_a_token_finds_the_issuer_and_the_card_says_where_a2a_is(
    team, monkeypatch, create, path
):
    monkeypatch.setenv("PETIOLE_OIDC_ISSUER", ISSUER)
    monkeypatch.setenv("PETIOLE_OIDC_AUDIENCE", "petiole")
    with serving(create(team.bus)) as url:
        refused = httpx2.post(f"{url}{path}/mcp", json={})
        address = extract_resource_metadata_from_www_auth(refused)
        card = read_card(f"{url}{path}")
        first, *_ = build_protected_resource_metadata_discovery_urls(address, f"{url}{path}/mcp")
        metadata = ProtectedResourceMetadata.model_validate_json(httpx2.get(first).text)
        elsewhere = httpx2.get(f"{url}{path}/streams/x/events")

    assert refused.status_code == 401
    assert card.supported_interfaces[0].url == f"{url}{path}/a2a"
    assert str(metadata.resource) == f"{url}{path}/mcp"
    assert [str(each) for each in metadata.authorization_servers] == [ISSUER]
    assert elsewhere.headers["www-authenticate"] == "Bearer"


def test_without_an_issuer_a_client_of_mcp_is_told_of_none(team):
    with serving(create_application(team.bus)) as url:
        refused = httpx2.post(f"{url}/mcp", json={})
        document = httpx2.get(f"{url}/.well-known/oauth-protected-resource/mcp")

    assert (refused.headers["www-authenticate"], document.status_code) == ("Bearer", 404)
