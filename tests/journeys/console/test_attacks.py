"""Attacks on the console and the gateways: each is refused, or has no effect: docs/operations/security.md."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import Permanent, UsageError
from petiole.events.event import EventContext
from petiole.workers.console import create_console
from petiole.workers.gateways.identities import IdentityMiddleware, RequestLimits, may_use_stream
from petiole.workers.gateways.tokens import Identity, TokenFile
from tests.journeys.console.conftest import Browser, find
from tests.support.browser import serving
from tests.support.errors import has_code

PAGES = ["/", "/board", "/conversations", "/point", "/failures", "/approvals", "/why", "/catalog", "/asyncapi",
         "/events", "/answers", "/break"]  # fmt: skip
HOSTILE = '"><script src=//evil.test/x.js></script><img src=x onerror=alert(1)>\x1b]0;title\x07'


@pytest.mark.parametrize("page", PAGES)
def test_without_a_token_nothing_is_shown(open_browser, page):
    stranger = open_browser(signs_in=False)

    answer = stranger.get(page, follow_redirects=False)
    as_page = stranger.get(page, headers={"Accept": "text/html"}, follow_redirects=False)

    assert answer.status_code == 401
    assert (as_page.status_code, as_page.headers["location"]) == (303, "/sign-in")


@pytest.mark.parametrize("token", ["", "wrong", "x" * 10_000, "\udc80", "admin"])
def test_a_wrong_token_opens_nothing(open_browser, token):
    stranger = open_browser(signs_in=False)
    given = token.encode("utf-8", "surrogatepass")

    answer = stranger.get("/", headers={b"Authorization": b"Bearer " + given})
    signed_in = stranger.press("/sign-in", "/sign-in", token=given.decode("latin-1"))

    assert answer.status_code == 401
    assert signed_in.status_code == 403
    assert "petiole_session" not in stranger.cookies


def test_a_forged_session_cookie_opens_nothing(open_browser, tokens):
    open_browser(tokens("viewer"))
    stranger = open_browser(signs_in=False)

    for forged in ("viewer", "dmlld2Vy.99999999999.00", "..", "dmlld2Vy.99999999999.é"):
        answer = stranger.get("/", headers={"Cookie": f"petiole_session={forged}".encode()})
        assert answer.status_code == 401


def test_a_removed_token_ends_its_sessions(open_browser, tokens, tmp_path):
    browser = open_browser(tokens("viewer"))
    assert browser.get("/").status_code == 200

    path = tmp_path / "tokens"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("viewer")))

    assert browser.get("/").status_code == 401


@pytest.mark.parametrize(
    ("page", "action"),
    [("/agent", "agent.set"), ("/circuit", "circuit.set"), ("/conversation?id=s", "contents.shown"),
     ("/letter?id=x", "contents.shown"), ("/letter/edit?id=x", "dead_letter.edited"),
     ("/letter/discard?id=x", "dead_letter.discarded"), ("/replay", "dead_letters.replayed"),
     ("/approval", "approval.decided"), ("/point?id=s", "contents.shown"), ("/point/replay?id=s", "history.replayed"),
     ("/point/fork?id=s", "event.forked"), ("/break", "experiment.started")],
)  # fmt: skip
def test_a_viewer_changes_nothing_and_sees_no_contents_and_the_try_is_recorded(
    harness, open_browser, tokens, page, action
):
    viewer = open_browser(tokens("viewer"))

    answer = viewer.press(page, name="x", action="pause", state="open", decision="grant", id="x", reason="just a try")

    assert answer.status_code == 403
    (recorded,) = harness.published_events()
    content = recorded.model_dump(mode="json")["content"]
    assert (content["operator"], content["action"], content["outcome"]) == ("viewer", action, "refused")


def test_a_user_of_a_stream_sees_no_console(open_browser, tokens):
    token = tokens("user")
    client = open_browser(signs_in=False)

    answers = {page: client.get(page, headers={"Authorization": f"Bearer {token}"}).status_code for page in PAGES}

    assert set(answers.values()) == {403}


def test_a_stream_is_read_by_its_user_only(harness):
    harness.publish(
        TextMessageEvent(stream_id="of-ada", content=TextContent(text="x"), context=EventContext(user_id="ada"))
    )
    ada, bob = Identity("a", "user", "ada"), Identity("b", "user", "bob")
    viewer, operator = Identity("v", "viewer"), Identity("o", "operator")

    assert may_use_stream(harness.bus, ada, "of-ada")
    assert not any(may_use_stream(harness.bus, each, "of-ada") for each in (bob, viewer, operator))
    assert not may_use_stream(harness.bus, bob, "of-ada", is_write=True)
    # A stream without events belongs to nobody: who reads it now would read what somebody writes later.
    assert not may_use_stream(harness.bus, bob, "of-nobody")
    assert may_use_stream(harness.bus, bob, "of-nobody", is_write=True)


@pytest.mark.parametrize("host", ["evil.test", "localhost.evil.test", "localhost@evil.test", ""])
def test_dns_rebinding_is_refused_by_the_host(browser, host):
    assert browser.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_a_proxy_on_this_machine_does_not_make_the_world_local(browser, header):
    assert browser.get("/", headers={header: "203.0.113.9"}).status_code == 401


def test_a_name_of_the_world_is_not_local(browser):
    assert browser.get("/", headers={"Host": "console.test"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://localhost:1234"}],
)  # fmt: skip
def test_a_form_of_another_site_changes_nothing(harness, browser, headers):
    token = find(r'name="form_token" value="([^"]+)"', browser.see("/"))

    answer = browser.post("/agent", data={"form_token": token, "name": "x", "action": "pause"}, headers=headers)

    assert answer.status_code == 403
    assert harness.published_events() == []


@pytest.mark.parametrize("token", [None, "", "x", "é"])
def test_a_form_without_the_token_of_its_page_changes_nothing(harness, browser, token):
    browser.see("/")

    answer = browser.post("/agent", data={"name": "x", "action": "pause"} | ({"form_token": token} if token else {}))

    assert answer.status_code == 403
    assert "expired" in answer.text
    assert harness.published_events() == []


def test_script_in_an_event_is_text_on_every_page_and_no_script_runs_inline(harness, browser):
    def fail(_: object) -> None:
        raise Permanent(HOSTILE)

    harness.subscribe("input.*", fail, agent="fails")
    harness.publish(
        TextMessageEvent(
            stream_id=HOSTILE, content=TextContent(text=HOSTILE), context=EventContext(user_id=HOSTILE, source=HOSTILE)
        )
    )
    harness.bus.wait()
    letter = f"/letter?id={harness.dead_letters()[0].id}"
    conversation = str(httpx2.URL("/conversation", params={"id": HOSTILE}))
    group = find(r'href="(/letters[^"]+)"', browser.see("/failures"))

    pages = [browser.get(page) for page in ("/", "/board", "/conversations", conversation, "/failures", group, letter)]
    pages += [browser.press(page, page) for page in (conversation, letter)]
    pages.append(browser.press("/why", "/why", event=HOSTILE))

    for page in pages:
        assert page.status_code in {200, 400}
        assert "<script src=//evil" not in page.text
        assert "<img src=x" not in page.text
        assert "\x1b" not in page.text
        assert "onclick" not in page.text
        assert " style=" not in page.text
        assert not re.search(r"<script(?![^>]* src=)", page.text)
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy


def test_every_answer_has_strict_headers(open_browser, browser):
    for answer in (browser.get("/"), browser.get("/none"), open_browser(signs_in=False).get("/")):
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(open_browser, tokens):
    browser = open_browser(tokens("viewer"))

    cookies = browser.get("/").headers.get_list("set-cookie") + [
        header for answer in browser.press("/sign-in", "/sign-in", token=tokens("viewer")).history
        for header in answer.headers.get_list("set-cookie")
    ]  # fmt: skip

    assert cookies
    assert all("HttpOnly" in cookie and "samesite=strict" in cookie.lower() for cookie in cookies)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x=1", "a\nX-Evil: 1", "//evil.test"])
def test_a_header_cannot_be_injected_and_no_redirect_leaves_the_console(browser, value):
    answer = browser.get("/conversations", params={"id": value}, follow_redirects=False)

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/conversation?id=")
    assert not {"x-evil"} & set(answer.headers)
    assert "x=1" not in answer.headers.get("set-cookie", "")


def test_a_large_body_is_refused_before_it_is_read(browser):
    assert browser.post("/why", content=b"x" * 1_100_000).status_code == 413


def test_a_form_with_too_many_fields_is_refused(browser):
    browser.see("/")

    answer = browser.post("/why", content="&".join(f"a{number}=1" for number in range(1_000)))

    assert answer.status_code in {400, 403}


@pytest.mark.parametrize("event", ["[" * 100_000, '{"event_type": 1}', "{}", '{"event_type": "a", "content": NaN}'])
def test_hostile_json_is_refused_with_a_reason(browser, event):
    answer = browser.press("/why", "/why", event=event)

    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


def test_a_client_that_sends_slowly_is_cut_off_and_others_are_served(harness):
    limits = RequestLimits(body_timeout_s=0.3)
    application = create_console(harness.bus, trusts_loopback=True, limits=limits)
    with (
        serving(application) as address,
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as slow,
    ):
        slow.sendall(b"POST /why HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nevent=")
        assert httpx2.get(f"{address}/catalog").status_code == 200
        slow.settimeout(10)
        assert b"408" in slow.recv(1_000)


def test_more_connections_than_the_limit_are_refused_and_the_next_visitor_is_served(harness):
    """Hundreds stand for the ten thousand: the limit is per client and does not depend on their number."""
    application = create_console(harness.bus, trusts_loopback=True, limits=RequestLimits(requests_per_client=3))
    with serving(application) as address:
        with ExitStack() as stack:
            streams = [stack.enter_context(httpx2.stream("GET", f"{address}/events")) for _ in range(8)]
            statuses = [each.status_code for each in streams]
            port = int(address.rpartition(":")[2])
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        deadline = time.monotonic() + 20
        while httpx2.get(f"{address}/catalog").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        last = httpx2.get(f"{address}/catalog").status_code

    assert sorted(statuses) == [200] * 3 + [503] * 5
    assert last == 200


def test_the_token_file_is_made_once_for_its_owner_only(tmp_path):
    made, again = TokenFile(tmp_path / "tokens"), TokenFile(tmp_path / "tokens")

    assert (made.is_new, again.is_new) == (True, False)
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600
    token = (tmp_path / "tokens").read_text().split()[-1]
    assert len(token) >= 40
    assert made.find(token) == again.find(token) == Identity("admin", "admin")


@pytest.mark.parametrize(
    ("text", "mode"),
    [("a admin long-enough-token-of-twenty", 0o644), ("a admin short", 0o600), ("a king " + "x" * 30, 0o600),
     ("a user " + "x" * 30, 0o600), ("", 0o600)],
)  # fmt: skip
def test_a_token_file_that_protects_nothing_is_refused(tmp_path, text, mode):
    path = tmp_path / "tokens"
    path.write_text(text)
    os.chmod(path, mode)  # noqa: PTH101 - beside the test of the mode above

    with pytest.raises(UsageError, check=has_code("unusable_token_file")):
        TokenFile(path)


def test_an_authenticator_of_the_users_own_decides_who_calls(harness, tmp_path: Path):
    async def authenticate(connection):
        return Identity("sso-ada", "viewer") if connection.headers.get("x-sso") == "ada" else None

    application = create_console(harness.bus, authenticate=authenticate)
    browser = Browser(application, base_url="http://localhost", client=("203.0.113.9", 1))

    assert browser.get("/").status_code == 401
    assert "sso-ada (viewer)" in browser.get("/", headers={"X-SSO": "ada"}).text


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def nothing(*_):
        raise AssertionError("the application was reached")

    asyncio.run(IdentityMiddleware(nothing)({"type": "websocket"}, nothing, send))

    assert sent == ["websocket.close"]
