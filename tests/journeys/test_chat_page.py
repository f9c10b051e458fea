"""The chat page in a real browser: a text streams, a tool is approved or denied, a reload, a cancel, and files."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.gateways.application import create_application
from tests.contracts.channels.answers import serving
from tests.support.browser import open_page
from tests.support.gateways import ordering_team


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch):
    with (
        ordering_team(monkeypatch) as (team, ordered),
        serving(create_application(team.bus, trusts_loopback=True)) as url,
    ):
        yield url, ordered


def say(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_a_user_approves_denies_and_cancels_and_a_reload_loses_nothing(ordered):
    url, ordered_articles = ordered
    with open_page() as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{url}/chat")

        say(page, "Order tea, <b>please</b>")
        expect(page.locator(".approval")).to_contain_text('May this tool run? order {"article": "tea"}')
        expect(page.locator(".assistant")).to_have_text("I order tea.")
        page.reload()
        expect(page.locator(".user")).to_have_text("Order tea, <b>please</b>")
        page.click("text=Approve")
        expect(page.locator(".assistant").last).to_have_text("Done: tea is ordered")
        expect(page.locator(".tool")).to_have_text('order {"article":"tea"} (completed): tea is ordered')
        expect(page.locator("#cancel")).to_be_hidden()
        assert ordered_articles == ["tea"]

        say(page, "Order tea again")
        page.click("text=Deny")
        expect(page.locator(".approval").last).to_contain_text("Denied.")
        expect(page.locator("#cancel")).to_be_hidden()

        say(page, "Order tea once more")
        expect(page.locator(".approval").last).to_contain_text("May this tool run?")
        page.click("#cancel")
        expect(page.locator("#status")).to_have_text("Cancelled.")
        page.reload()
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator(".user")).to_have_count(3)
        expect(page.locator(".approval button")).to_have_count(0)

        assert ordered_articles == ["tea"]
        assert {address.split("/")[2] for address in requests} == {url.split("/")[2]}


def test_files_of_an_answer_are_links_that_run_nothing_and_data_is_shown() -> None:
    clerk = Agent("clerk")
    bill = {"url": "https://example.com/b.pdf", "filename": "b.pdf"}
    parts: Any = (bill, {"url": "javascript:alert(1)"}, {"data": {"total": 42}})

    @clerk.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text="Your bill", parts=parts))

    with (
        EventTestHarness([clerk]) as team,
        serving(create_application(team.bus, trusts_loopback=True)) as url,
        open_page() as page,
    ):
        page.goto(f"{url}/chat")
        say(page, "The bill, please")

        expect(page.locator(".assistant a")).to_have_attribute("href", bill["url"])
        expect(page.locator(".assistant a")).to_have_text("b.pdf")
        expect(page.locator(".assistant code")).to_have_text(["javascript:alert(1)", '{"total":42}'])
