"""The console in a real browser: a system is watched, broken and repaired by its pages alone."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import axe_playwright_python
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from petiole.events import TextContent, TextMessageEvent
from petiole.events.catalog.tools import ApprovalRequest, ApprovalRequestedEvent
from petiole.events.errors import Permanent
from petiole.tasks.resilience.circuit_breaker import CircuitCall
from petiole.tasks.stores.circuits import CircuitThresholds
from petiole.tasks.testing import EventTestHarness
from petiole.workers.console import create_console
from petiole.workers.console.breakable import DemoWorker
from petiole.workers.tools import approvals
from tests.support.browser import PATIENCE_MS, open_page, serving
from tests.support.polling import wait_until
from tests.support.processes import ROOT, Node

PICTURES = os.environ.get("PETIOLE_SCREENSHOTS")
"""A folder in which the tests keep a picture of every page, for docs/guides/console."""

WIDEST_BODY = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
PAGES = (
    "", "conversations", "conversation?id=s-1", "point", "failures", "letters", "letter", "approvals", "why",
    "catalog?topic=input.message.received", "break", "sign-in", "conversation?id=none",
)  # fmt: skip
LARGE_PAGES = ("catalog", "asyncapi")
"""axe-core needs seconds for each."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `petiole demo --console` for all tests of this module, and return its address."""
    home = tmp_path_factory.mktemp("demo")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    # A setting of the user's that would break it, if it used it.
    own = {"PETIOLE_BROKER_URL": "redis://127.0.0.1:1/0", "PETIOLE_OPERATOR": "ada", "TMPDIR": str(home)}
    node = Node(inherited | own | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, home, [])
    process = node.start("petiole.workers.cli", "demo", "--console", "--port", "0")
    wait_until(lambda: "console: http" in node.logs() or process.poll() is not None, 120, node.logs)
    found = re.search(r"console: (http\S+)", node.logs())
    assert found, node.logs()
    yield found[1]
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert list(home.glob("petiole-demo-*")) == []


def keep_picture(page: Page, name: str) -> None:
    """Keep what the window shows, without what differs from machine to machine."""
    if PICTURES:
        page.mouse.move(0, 0)
        window = page.viewport_size or {"width": 0, "height": 0}
        height = min(window["height"], page.evaluate("Math.ceil(document.body.getBoundingClientRect().bottom)"))
        path = Path(PICTURES) / f"{name}.png"
        page.screenshot(path=path, clip={"x": 0, "y": 0, "width": window["width"], "height": height})
        Image.open(path).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def press_experiment(page: Page, address: str, name: str, published: int, *, dead_lettered: int = 0) -> None:
    """Break the demo, and see that every event has its outcome: none is lost, none repeated."""
    page.goto(f"{address}break")
    page.get_by_role("button", name=name).click()
    latest = page.locator("#experiments article").first
    expect(latest.locator(".state")).to_have_text("recovered", timeout=2 * PATIENCE_MS)
    tally = {"published": published, "handled": published - dead_lettered, "dead_lettered": dead_lettered}
    for outcome, count in (tally | {"waiting": 0, "lost": 0, "repeated": 0}).items():
        expect(latest.locator(f".{outcome} dd")).to_have_text(str(count))


def test_a_killed_worker_loses_and_repeats_nothing_and_a_poisoned_order_is_edited_and_replayed(demo):
    with open_page() as page:
        page.goto(demo)
        expect(page.locator("#live-state")).to_contain_text("Live.")
        breaking = page.context.new_page()
        press_experiment(breaking, demo, "Kill a worker", 40)
        expect(breaking.locator("#experiments")).to_contain_text("kill -9 of demo-1")
        expect(breaking.locator("#experiments")).to_contain_text("was started again")
        expect(page.locator("#events")).to_contain_text("demo.order.served")
        keep_picture(breaking, "break-it")
        breaking.close()
        keep_picture(page, "live")

        page.click("text=Failures")
        page.click("tbody a >> text=kitchen")
        page.click("tbody a")
        page.click("button:text('Show the error')")
        event = json.loads(page.input_value("textarea"))
        event["content"]["is_poisoned"] = False
        page.fill("textarea", json.dumps(event, indent=2))
        keep_picture(page, "letter")
        page.click("button:text('Store the edited event')")

        page.goto(f"{demo}failures")
        page.click("tbody a >> text=kitchen")
        page.fill("input[name=canary]", "1")
        keep_picture(page, "failures")
        page.click("button:text('Replay 1')")
        expect(page.locator("#replay")).to_contain_text("Every letter has its outcome")
        expect(page.locator("#resolved")).to_have_text("1")


def test_an_approval_is_granted_a_breaker_opened_and_closed_and_an_agent_paused_and_resumed(demo):
    with open_page() as page:
        page.goto(f"{demo}approvals")
        expect(page.locator("article pre")).to_contain_text('"cups": 3')
        keep_picture(page, "approvals")
        page.fill("article input[name=reason]", "tea for three")
        page.click("button:text('Grant exactly this call')")
        expect(page.locator("tbody")).to_contain_text("granted")
        keep_picture(page, "approval-granted")
        page.goto(f"{demo}conversation?id=demo-conversation")
        expect(page.locator("#waterfall")).to_contain_text("output.message.sent")

        page.goto(demo)
        breaker = page.get_by_role("row", name=re.compile(r"^llm\.demo "))
        for button, state in (("Open", "open"), ("Close", "closed")):
            page.click("summary")
            page.locator("form[action$=circuit]").get_by_role("button", name=button).click()
            expect(breaker).to_contain_text(state)
            if state == "open":
                keep_picture(page, "breaker-open")
        agent = page.locator("#board tr", has_text="kitchen").first
        for button, state in (("Pause", "paused"), ("Resume", "started")):
            page.click("summary")
            page.select_option("form[action$=agent] select", "kitchen")
            page.locator("form[action$=agent]").get_by_role("button", name=button).click()
            expect(agent).to_contain_text(state)


@pytest.mark.long  # test_pages.py has the same without a browser
def test_a_conversation_is_forked_and_its_answer_is_seen_while_it_is_written(demo):
    with open_page() as page:
        page.goto(f"{demo}conversation?id=demo-conversation")
        page.click("summary")
        page.click("details li a >> nth=2")
        keep_picture(page, "conversation")
        page.click("a.here >> nth=0")
        page.click("text=Show and change the content first")
        page.fill("textarea", json.dumps({"text": "What can you do? Please tell me all of it."}))
        keep_picture(page, "from-here")
        page.click("text=Publish the copy")
        page.click("button:text('Show contents')")
        # The rows are those of the moment when the page was read, and the answer goes on.
        expect(page.locator("#waterfall")).not_to_contain_text("llm.response.generated")
        expect(page.locator(".answer")).to_contain_text("I can help")
        expect(page.locator("#answer [role=status]")).to_have_text("finished")


def test_a_conversation_appears_live_and_a_page_that_cannot_be_read_again_says_so(harness):
    harness.subscribe("input.*", fail, agent="careful")
    first = TextMessageEvent(stream_id="s-1", content=TextContent(text="bad"))
    application = create_console(harness.bus, trusts_loopback=True)
    with serving(application) as address, open_page() as page:
        page.goto(address)
        expect(page.locator("#live-state")).to_contain_text("Live.")
        harness.publish(first)
        page.locator("#events").get_by_role("link", name="input.message.received").click()
        expect(page.locator("#waterfall")).to_contain_text("dead lettered")
        harness.publish(first.caused(TextMessageEvent, content=first.content))
        expect(page.locator("#waterfall .event", has_text="input.message.received")).to_have_count(2)
        watching = page.context.new_page()
        watching.goto(address)
        expect(watching.locator("#live-state")).to_contain_text("Live.")
        harness.publish(first.caused(TextMessageEvent, content=first.content))
        expect(watching.locator("#events tr", has_text="input.message.received")).to_have_count(3)
        watching.close()

        page.route("**/conversation?*", lambda route: route.fulfill(status=503))
        expect(page.locator("[role=status].warning")).to_contain_text("may be old")
        page.unroute("**/conversation?*")
        expect(page.locator("[role=status].warning")).to_have_count(0)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "published", "dead_lettered"),
    [("Poison an event", 5, 1), ("Stop the model", 4, 0), ("Fill a queue", 500, 0)],
)
def test_the_demo_recovers_from_every_other_damage(demo, name, published, dead_lettered):
    with open_page(scheme="dark") as page:
        press_experiment(page, demo, name, published, dead_lettered=dead_lettered)
        if name == "Stop the model":
            keep_picture(page, "break-it-dark")


class QuietSystem:
    """A system that nothing is done to."""

    def list_workers(self) -> list[DemoWorker]:
        return [DemoWorker("demo-1", 1, 1, is_alive=True), DemoWorker("demo-2", 2, 0, is_alive=False)]

    def kill_worker(self) -> DemoWorker:
        return self.list_workers()[0]

    def stop_model(self) -> None: ...

    def start_model(self) -> None: ...


LONG_WORD = "https://example.org/orders/" + "0123456789abcdef" * 20
CALL = ApprovalRequest(
    approval_id="a-1", call_id="c-1", tool="order_" + "t" * 60, arguments={"article": LONG_WORD},
    fingerprint="f" * 64, expires_at=datetime(2100, 1, 1, tzinfo=UTC),
)  # fmt: skip


def fail(_: object) -> None:
    raise Permanent(f"this message is bad: {LONG_WORD}")


@pytest.fixture
def filled(harness: EventTestHarness) -> EventTestHarness:
    """A system with a dead letter, a breaker, a waiting approval and a granted one, all with long words."""
    harness.subscribe("input.*", fail, agent="careful")
    harness.publish(TextMessageEvent(stream_id="s-1", content=TextContent(text=f"bad {LONG_WORD}")))
    harness.bus.wait()
    with CircuitCall(harness.bus, "llm." + "a" * 60, CircuitThresholds(3, timedelta(seconds=9), timedelta(seconds=9))):
        pass
    for number in (1, 2):
        call = CALL.model_copy(update={"approval_id": f"a-{number}"})
        approvals.open_approval(ApprovalRequestedEvent(stream_id="u" * 100, content=call), bus=harness.bus)
    approvals.grant("a-1", by="ada@" + "a" * 60, reason="r" * 200, bus=harness.bus)
    return harness


def check_page(page: Page, axe: str, name: str) -> None:
    """Check that the page is no wider than the window, and that axe-core finds nothing serious."""
    assert page.evaluate(WIDEST_BODY), f"{name} is wider than a phone"
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [each for each in found if each["impact"] in {"serious", "critical"}]
    assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == [], name


@pytest.mark.parametrize(
    ("scheme", "pages"),
    [
        ("light", PAGES),
        *(pytest.param(scheme, PAGES + LARGE_PAGES, marks=pytest.mark.long) for scheme in ("light", "dark")),
    ],
)
@pytest.mark.timeout(300)
def test_every_page_fits_a_phone_and_is_accessible(filled, scheme, pages):
    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
    (letter,) = filled.dead_letters()
    message = filled.published_events()[0]
    queries = {
        "point": f"?id={message.correlation_id}&event={message.event_id}",
        "letters": f"?agent=careful&cause={letter.cause}&fingerprint={letter.fingerprint}",
        "letter": f"?id={letter.id}",
    }
    buttons = {
        "conversation?id=s-1": "Show contents",
        "point": "Show and change the content first",
        "letter": "Show the error",
        "letters": "Replay 1",
        "why": "Explain",
    }
    application = create_console(filled.bus, trusts_loopback=True, breakable=QuietSystem())
    with serving(application) as address, open_page(width=360, height=740, scheme=scheme) as page:
        for path in sorted(pages, key="letters".__eq__):  # the replay last: it changes the letter
            page.goto(f"{address}/{path}{queries.get(path, '')}")
            check_page(page, axe, path)
            if path in buttons:
                with page.expect_navigation():
                    page.click(f"button:text('{buttons[path]}')")
                check_page(page, axe, f"{path}, {buttons[path]}")


@pytest.mark.long
@pytest.mark.skipif(not PICTURES, reason="takes pictures only: PETIOLE_SCREENSHOTS names their folder")
def test_pictures_of_the_other_pages(demo):
    with open_page() as page:
        for path in ("conversations", "catalog", "asyncapi"):
            page.goto(demo + path)
            keep_picture(page, path)
        page.goto(f"{demo}why")
        page.click("button:text('Explain')")
        keep_picture(page, "why")
    with open_page(width=360, height=740) as page:
        page.goto(demo)
        expect(page.locator("#live-state")).to_contain_text("Live.")
        keep_picture(page, "phone")
