"""The console in a real browser: events appear live, and an operator brings a system back by its pages alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import open_page
from tests.support.polling import wait_until
from tests.support.processes import ROOT, Node

AGENTS = """
from petiole import Agent
from petiole.events.errors import Permanent

agent = Agent("careful")

@agent.on("input.message.received")
def read(event):
    if "bad" in event.content.text:
        raise Permanent("this message is bad")
"""

PUBLISH = """
from petiole import publish
from petiole.events import TextContent, TextMessageEvent
for text in {texts!r}:
    publish(TextMessageEvent(stream_id="s-1", content=TextContent(text=text)))
"""

REQUEST_APPROVAL = """
from petiole.events.catalog.orchestrator import ToolCall
from petiole.events.catalog.tools import ApprovalRequest, ApprovalRequestedEvent
from petiole.tasks.bus import default_bus
from petiole.tasks.resilience.circuit_breaker import CircuitCall
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.workers.tools import approvals
from datetime import timedelta
call = ApprovalRequest(approval_id="a-1", call_id="c-1", tool="order", arguments={"article": "tea"},
                       fingerprint="f" * 64, expires_at="2100-01-01T00:00:00Z")
approvals.open_approval(ApprovalRequestedEvent(stream_id="s-1", content=call), bus=default_bus)
with CircuitCall(default_bus, "llm.parrot", CircuitThresholds(3, timedelta(seconds=9), timedelta(seconds=9))):
    pass
"""

SCREENSHOTS = os.environ.get("PETIOLE_SCREENSHOTS")
"""A folder in which the test keeps a picture of every page, for the documents."""

WIDEST_BODY = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def node(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Start one system for all tests, with a prefix of its own."""
    home = tmp_path_factory.mktemp("console")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    environment |= {
        "PETIOLE_BROKER_URL": broker_url,
        "PETIOLE_KEY_PREFIX": "console-in-a-browser",
        "PETIOLE_AGENTS": "careful",
        "PYTHONPATH": os.pathsep.join([str(home), str(ROOT)]),
        "PYTHONUNBUFFERED": "1",
    }
    node = Node(environment, home, [])
    node.module("careful", AGENTS)
    node.start("petiole.workers.cli", "console", "--port", "0")
    node.worker("careful")
    yield node
    for process in node.processes:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def console(node: Node) -> str:
    """Return the address of the system's console."""
    log = node.home / "0.log"
    wait_until(lambda: "console: http" in log.read_text(), 30, lambda: log.read_text()[-3000:])
    return re.search(r"http://\S+", log.read_text())[0]  # type: ignore[index]  # just seen


def keep_picture(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"))


def test_an_operator_brings_a_failed_letter_back_by_the_pages_alone(node, console):
    with open_page() as page:
        page.goto(console)
        expect(page.locator("#live-state")).to_contain_text("Live.")
        node.run(PUBLISH.format(texts=["hello", "bad news"]))
        expect(page.locator("#events")).to_contain_text("error.dead_lettered")
        expect(page.locator("#board")).to_contain_text("1 dead letters")
        keep_picture(page, "live")

        page.click("text=Conversations")
        page.fill("input[name=id]", "s-1")
        page.click("button:text('Show')")
        page.click("button:text('Show contents')")
        expect(
            page.locator("pre", has_text="bad news").or_(page.locator("pre", has_text="hello")).first
        ).to_be_visible()
        keep_picture(page, "conversation")

        page.click("text=Failures")
        page.click("tbody a")
        keep_picture(page, "failures")
        page.click("tbody a")
        page.click("button:text('Show and edit')")
        event = json.loads(page.input_value("textarea"))
        event["content"]["text"] = "good news"
        page.fill("textarea", json.dumps(event))
        keep_picture(page, "letter")
        page.click("button:text('Store the edited event')")
        page.click("button:text('Replay')")
        expect(page.locator("#replay")).to_contain_text("Every letter has its outcome")
        expect(page.locator("#resolved")).to_have_text("1")
        keep_picture(page, "replay")


@pytest.mark.long  # test_pages.py has the same without a browser
def test_an_approval_is_granted_a_breaker_opened_and_closed_and_an_agent_paused_and_resumed(node, console):
    node.run(REQUEST_APPROVAL)
    with open_page(scheme="dark") as page:
        page.goto(f"{console}approvals")
        expect(page.locator("article pre")).to_contain_text('"article": "tea"')
        keep_picture(page, "approvals")
        page.click("button:text('Grant exactly this call')")
        expect(page.locator("tbody")).to_contain_text("granted")

        page.goto(console)
        breaker = page.locator("tr", has_text="llm.parrot")
        for button, state in (("Open", "open"), ("Close", "closed")):
            page.click("summary")
            page.locator("form[action$=circuit]").get_by_role("button", name=button).click()
            expect(breaker).to_contain_text(state)
        agent = page.locator("#board tr", has_text="careful").first
        for button, state in (("Pause", "paused"), ("Resume", "started")):
            page.click("summary")
            page.locator("form[action$=agent]").get_by_role("button", name=button).click()
            expect(agent).to_contain_text(state)


def test_every_page_fits_a_phone_and_is_accessible(node, console):
    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
    node.run(PUBLISH.format(texts=["more bad news"]))
    with open_page(width=360, height=740) as page:
        for path in ("", "conversations", "conversation?id=s-1", "failures", "approvals", "why", "catalog", "sign-in"):
            page.goto(console + path)
            assert page.evaluate(WIDEST_BODY), f"{path} is wider than a phone"
            page.evaluate(axe)
            found = page.evaluate("async () => (await axe.run()).violations")
            serious = [each for each in found if each["impact"] in {"serious", "critical"}]
            assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == [], path
        keep_picture(page, "phone")
