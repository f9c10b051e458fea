"""Attacks on the pages of the console, beside those of tests/journeys/access: docs/operations/security.md."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx2
import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import Permanent, UsageError
from petiole.events.event import EventContext
from petiole.workers.gateways.tokens import Identity, TokenFile
from tests.journeys.console.conftest import find
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


@pytest.mark.parametrize("token", ["", "wrong", "x" * 10_000, "é", "admin"])
def test_a_wrong_token_signs_nobody_in(open_browser, token):
    stranger = open_browser(signs_in=False)

    answer = stranger.press("/sign-in", "/sign-in", token=token)

    assert answer.status_code == 403
    assert "petiole_session" not in stranger.cookies


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


def test_a_form_with_too_many_fields_is_refused(browser):
    browser.see("/")

    answer = browser.post("/why", content="&".join(f"a{number}=1" for number in range(1_000)))

    assert answer.status_code in {400, 403}


@pytest.mark.parametrize("event", ["[" * 100_000, '{"event_type": 1}', "{}", '{"event_type": "a", "content": NaN}'])
def test_hostile_json_is_refused_with_a_reason(browser, event):
    answer = browser.press("/why", "/why", event=event)

    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


def test_the_token_file_is_made_once_for_its_owner_only(tmp_path):
    made, again = TokenFile(tmp_path / "tokens"), TokenFile(tmp_path / "tokens")

    assert (made.is_new, again.is_new) == (True, False)
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600
    token = (tmp_path / "tokens").read_text().split()[-1]
    assert len(token) >= 40
    assert made.find(token) == again.find(token) == Identity("admin", "admin")


def test_a_token_file_that_cannot_be_made_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match="PETIOLE_HOME", check=has_code("unusable_token_file")):
        TokenFile(Path("/proc/petiole/tokens"))


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
