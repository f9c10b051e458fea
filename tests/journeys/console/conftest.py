"""A system in this process, and its console as a browser without JavaScript sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.console import create_console

LOCAL = ("127.0.0.1", 50_000)
STRANGER = ("203.0.113.9", 50_000)


def find(pattern: str, page: str) -> str:
    """Return the first group of a pattern in a page, as text."""
    found = re.search(pattern, page, re.DOTALL)
    assert found is not None, page
    return unescape(found[1])


class Browser(TestClient):
    """A browser: it keeps cookies, and sends forms with the token of the page that it sees."""

    def see(self, address: str) -> str:
        """Read a page, as HTML."""
        answer = self.get(address)
        assert answer.status_code == 200, answer.text
        return answer.text

    def press(self, address: str, page: str = "/", **fields: str):
        """Send a form of a page, and follow to the next page."""
        token = find(r'name="form_token" value="([^"]+)"', self.see(page))
        return self.post(address, data={"form_token": token, **fields})


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[EventTestHarness]:
    with EventTestHarness(settings=Settings(home=tmp_path)) as harness:
        yield harness


@pytest.fixture
def open_browser(harness: EventTestHarness) -> Callable[..., Browser]:
    """Open a browser on this machine; with a token, on another one, signed in."""

    def open_(token: str | None = None, *, signs_in: bool = True, host: str = "localhost", **options) -> Browser:
        is_local = token is None and signs_in
        application = create_console(harness.bus, trusts_loopback=is_local, hosts=("console.test",), **options)
        browser = Browser(
            application, base_url=f"http://{host}", client=LOCAL if is_local else STRANGER, raise_server_exceptions=True
        )
        if token is not None and signs_in:
            assert browser.press("/sign-in", "/sign-in", token=token).status_code == 200
        return browser

    return open_


@pytest.fixture
def browser(open_browser: Callable[..., Browser]) -> Browser:
    return open_browser()


@pytest.fixture
def tokens(harness: EventTestHarness, tmp_path: Path) -> Callable[..., str]:
    """Write a token of a role into the token file, and return it."""

    def add(role: str, name: str | None = None, user: str = "") -> str:
        token = f"{role}-token-of-twenty-letters-{name or role}"
        path = tmp_path / "tokens"
        if not path.exists():
            create_console(harness.bus)
        with path.open("a") as file:
            file.write(f"{name or role} {role} {token} {user or ('ada' if role == 'user' else '')}\n")
        return token

    return add
