"""One table of attacks on every surface that speaks HTTP: each is refused, or has no effect."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from petiole.tasks.testing import EventTestHarness
from petiole.workers.gateways.access import AccessLimits
from petiole.workers.gateways.application import create_application
from petiole.workers.gateways.tokens import Identity
from petiole.workers.state import team_state
from tests.contracts.channels.answers import serving
from tests.journeys.access.surfaces import ADMIN, BOB, SURFACES, Surface

LOCAL, STRANGER = ("127.0.0.1", 50_000), ("203.0.113.9", 50_000)
HOSTILE = '"><script src=//evil.test/x.js></script><img src=x onerror=alert(1)>\x1b]0;title\x07'

NO_IDENTITY = {
    "no token": {},
    "an empty token": {"Authorization": "Bearer "},
    "a wrong token": {"Authorization": "Bearer wrong"},
    "a name as token": {"Authorization": "Bearer admin"},
    "a long token": {"Authorization": "Bearer " + "x" * 10_000},
    "a token of bytes": {"Authorization": b"Bearer \xff\x80"},
    "a token of another scheme": {"Authorization": f"Basic {ADMIN}"},
    "an unsigned token": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."},
    "a name as session": {"Cookie": "petiole_session=admin"},
    "a forged session": {"Cookie": "petiole_session=YWRtaW4.99999999999.00"},
    "a session for ever": {"Cookie": "petiole_session=YWRtaW4." + "9" * 5_000 + ".00"},
    "a session of bytes": {"Cookie": b"petiole_session=YWRtaW4.99999999999.\xe9"},
    "a session of nothing": {"Cookie": "petiole_session=.."},
}
"""Headers of a stranger."""

NOT_LOCAL = {
    "X-Forwarded-For": {"X-Forwarded-For": "127.0.0.1"},
    "Forwarded": {"Forwarded": "for=127.0.0.1"},
    "Via": {"Via": "1.1 proxy"},
    "X-Real-IP": {"X-Real-IP": "127.0.0.1"},
    "a name of the world": {"Host": "allowed.test"},
}
"""Headers of a caller on this machine who may be anybody's proxy."""

HOSTS = ["evil.test", "localhost.evil.test", "localhost@evil.test", "127.0.0.1.nip.io", "[::1", "[", ""]

FOREIGN_PAGES = {
    "another site": {"Origin": "https://evil.test"},
    "a frame without origin": {"Origin": "null"},
    "another port": {"Origin": "http://localhost:1234"},
    "no URL": {"Origin": "http://["},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
}
"""Headers that the browser of an admin sends for a page of another site."""

Attack = tuple[dict[str, Any], int, str]


def attacks() -> Iterator[tuple[str, Attack]]:
    """Yield each attack: what the request is, beside a harmless one, its status, and what its reason says."""
    for name, headers in NO_IDENTITY.items():
        yield name, ({"client": STRANGER, "headers": headers}, 401, "token")
    for name, headers in NOT_LOCAL.items():
        yield f"local by {name}", ({"headers": headers}, 401, "send a token")
    for host in HOSTS:
        yield f"DNS rebinding to {host!r}", ({"headers": {"Host": host}}, 421, "--allow-host")
    for name, headers in FOREIGN_PAGES.items():
        yield f"CSRF by {name}", ({"headers": headers, "is_change": True}, 403, "--allow-origin")
    yield "a large body", ({"content": b"x" * 1_100_000, "is_change": True}, 413, "send less")
    long_length = {"Content-Length": "9" * 19}
    yield "an endless body", ({"headers": long_length, "content": b"x", "is_change": True}, 413, "send less")


ATTACKS = dict(attacks())


@pytest.fixture(scope="module", params=list(SURFACES.values()), ids=list(SURFACES))
def surface(request: pytest.FixtureRequest) -> Surface:
    found: Surface = request.param
    return found


@pytest.fixture(scope="module")
def open_client(team: EventTestHarness, surface: Surface) -> Callable[..., TestClient]:
    application = surface.create(team.bus, trusts_loopback=True, hosts=("allowed.test",))
    return lambda client=LOCAL: TestClient(
        application, base_url="http://localhost", client=client, follow_redirects=False
    )


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_refused_with_its_reason_and_strict_headers(team, surface, open_client, attack):
    options, status, reason = attack
    options = dict(options)
    client, is_change = open_client(options.pop("client", LOCAL)), options.pop("is_change", False)
    before = len(team.published_events())

    answers = [client.post(surface.change, **options)]
    if not is_change:
        answers.append(client.get(surface.read, **options))

    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert reason in answer.json()["detail"]
        check_headers(answer)
    assert len(team.published_events()) == before


def test_what_is_no_attack_is_answered(surface, open_client):
    for client, headers in ((open_client(), {}), (open_client(STRANGER), {"Authorization": f"Bearer {ADMIN}"})):
        read, change = client.get(surface.read, headers=headers), client.post(surface.change, headers=headers)

        assert (read.status_code, change.status_code) == (surface.read_status, surface.change_status)
        assert "--allow-origin" not in change.text
        for answer in (read, change):
            check_headers(answer)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "LOCALHOST.:80", "[::1]:8765", "10.1.2.3", "allowed.test", "Allowed.Test:80"]
)
def test_a_name_or_address_of_this_server_is_served(surface, open_client, host):
    headers = {"Host": host, "Authorization": f"Bearer {ADMIN}"}

    assert open_client(STRANGER).get(surface.read, headers=headers).status_code == surface.read_status


def check_headers(answer: httpx2.Response) -> None:
    """Check the headers that every answer has."""
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'none'" in answer.headers["content-security-policy"]


SOCKET_ATTACKS = {
    name: attack
    for name, attack in ATTACKS.items()
    if attack[1] in {401, 403, 421} and "a token of bytes" not in name and "Sec-Fetch" not in str(attack)
}


@pytest.mark.parametrize("attack", SOCKET_ATTACKS.values(), ids=SOCKET_ATTACKS)
def test_an_attack_on_the_websocket_is_refused_before_it_is_accepted(surface, open_client, attack):
    options, _, _ = attack
    client = open_client(options.get("client", LOCAL))
    path = "ws://localhost" + surface.change.removesuffix("messages") + "voice"

    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(path, headers=options["headers"]):
        pass

    assert closed.value.code == 1008


def test_a_websocket_is_opened_by_the_token_of_its_page(team):
    client = TestClient(create_application(team.bus), base_url="http://localhost", client=STRANGER)
    url = "ws://localhost/streams/of-bob/voice"

    with client.websocket_connect(url, subprotocols=["petiole", f"bearer.{quote(BOB)}"]) as session:
        assert session.accepted_subprotocol == "petiole"
    for headers in ({}, {"Origin": "https://evil.test"}, {"Origin": "null"}):
        offered = ["petiole", f"bearer.{quote(BOB)}"] if headers else []
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(url, subprotocols=offered, headers=headers):
            pass


@pytest.mark.parametrize(
    ("stream", "token", "status", "reason"),
    [("x", "wrong", 401, "send a token"), ("of-ada", BOB, 403, "not yours"), ("of-bob", BOB, 426, "WebSocket")],
)
def test_a_page_is_told_why_its_websocket_was_refused(team, stream, token, status, reason):
    team_state(team.bus).stream_owners.claim("of-ada", "ada")
    team_state(team.bus).stream_owners.claim("of-bob", "bob")
    client = TestClient(create_application(team.bus), base_url="http://localhost", client=STRANGER)

    answer = client.get(f"/streams/{stream}/voice", headers={"Authorization": f"Bearer {token}"})

    assert (answer.status_code, reason in answer.json()["detail"]) == (status, True)


def test_a_page_of_an_allowed_origin_asks_and_sends_without_a_cookie_of_ours(team):
    page = {"Origin": "http://app.test", "Sec-Fetch-Site": "cross-site"}
    client = TestClient(
        create_application(team.bus, origins=["http://app.test"]), base_url="http://localhost", client=STRANGER
    )
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    allowed = client.options("/streams/of-bob/messages", headers=page | asked)
    refused = client.options("/streams/of-bob/messages", headers=page | asked | {"Origin": "http://evil.test"})
    sent = client.post(
        "/streams/of-bob/messages", json={"text": "x"}, headers=page | {"Authorization": f"Bearer {BOB}"}
    )

    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "http://app.test")
    assert "access-control-allow-credentials" not in allowed.headers
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (202, "http://app.test")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nSet-Cookie: x=1"])
def test_a_header_cannot_be_injected_by_the_name_of_a_stream(team, value):
    client = TestClient(create_application(team.bus, trusts_loopback=True), base_url="http://localhost", client=LOCAL)

    answer = client.post(f"/streams/{quote(value)}/messages", json={"text": "x"})

    assert answer.status_code in {202, 400, 404}
    assert not {"x-evil", "set-cookie"} & set(answer.headers)
    assert "\n" not in answer.headers.get("location", "")


def test_script_in_an_answer_is_data_of_a_stream_and_never_a_page(team):
    with serving(create_application(team.bus, trusts_loopback=True)) as url:
        httpx2.post(f"{url}/streams/hostile/messages", json={"text": HOSTILE})
        run = {"threadId": "hostile", "runId": "r", "messages": [{"id": "u", "role": "user", "content": HOSTILE}]}
        answer = httpx2.post(f"{url}/ag-ui", json=run, timeout=30)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "onerror" in answer.text
    assert "\x1b" not in answer.text


def test_a_client_that_sends_slowly_is_cut_off_and_others_are_served(team, surface):
    application = surface.create(team.bus, trusts_loopback=True, limits=AccessLimits(body_timeout_s=0.3))
    with serving(application) as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as slow:
        head = f"POST {surface.change} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nevent="
        slow.sendall(head.encode())
        assert httpx2.get(f"{url}{surface.read}").status_code == surface.read_status
        slow.settimeout(20)
        assert b"408" in slow.recv(1_000)


def test_more_connections_than_the_limit_are_refused_and_the_next_client_is_served(team, surface):
    application = surface.create(team.bus, trusts_loopback=True, limits=AccessLimits(connections_per_client=3))
    stream = "/events" if surface.read == "/catalog" else surface.change.removesuffix("messages") + "events"
    with serving(application) as url:
        with ExitStack() as stack:
            streams = [stack.enter_context(httpx2.stream("GET", f"{url}{stream}", timeout=20)) for _ in range(8)]
            statuses = [each.status_code for each in streams]
            port = int(url.rpartition(":")[2])
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        deadline = time.monotonic() + 30
        while (last := status_of(f"{url}{surface.read}")) != surface.read_status and time.monotonic() < deadline:
            time.sleep(0.05)

    assert sorted(statuses) == [200] * 3 + [503] * 5
    assert last == surface.read_status


CROWD = """
import socket, sys
opened = []
for _ in range(10_000):
    opened.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30, ("127.0.0.2", 0)))
print(len(opened))
"""


@pytest.mark.long
@pytest.mark.timeout(400)
def test_ten_thousand_connections_of_one_address_keep_no_other_client_out(team, surface):
    served = 0
    with serving(surface.create(team.bus, trusts_loopback=True)) as url:
        crowd = subprocess.Popen(
            [sys.executable, "-c", CROWD, url.rpartition(":")[2]], stdout=subprocess.PIPE, text=True
        )
        while crowd.poll() is None:
            with httpx2.Client(transport=httpx2.HTTPTransport(local_address="127.0.0.3"), timeout=30) as other:
                assert other.get(f"{url}{surface.read}").status_code == surface.read_status
                served += 1

    assert crowd.communicate()[0] == "10000\n"
    assert served > 1


def status_of(url: str) -> int:
    try:
        return httpx2.get(url).status_code
    except httpx2.TransportError:  # the server closes what comes above its limit
        return 0


def test_a_token_file_that_is_spoilt_while_it_is_served_opens_nothing(team, surface):
    client = TestClient(surface.create(team.bus), base_url="http://localhost", client=STRANGER)
    path = team.bus.settings.home / "tokens"
    tokens = path.read_text()
    path.write_text("admin admin short")

    spoilt = client.get(surface.read, headers={"Authorization": f"Bearer {ADMIN}"})
    path.write_text(tokens)

    assert (spoilt.status_code, "short" in spoilt.text) == (503, False)
    assert client.get(surface.read, headers={"Authorization": f"Bearer {ADMIN}"}).status_code == surface.read_status


def test_an_authenticator_of_the_users_own_decides_who_calls(team, surface):
    async def authenticate(connection):
        return Identity("sso-ada", "admin") if connection.headers.get("x-sso") == "ada" else None

    client = TestClient(
        surface.create(team.bus, authenticate=authenticate), base_url="http://localhost", client=STRANGER
    )

    assert client.get(surface.read, headers={"X-SSO": "bob"}).status_code == 401
    assert client.get(surface.read, headers={"X-SSO": "ada"}).status_code == surface.read_status
