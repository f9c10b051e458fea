"""Debian's Chromium, driven by Playwright; without it a test is skipped, and fails under CI=true. And a server."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from petiole.workers.channels.http_server import build_server

PATIENCE_MS = 60_000
"""For what a page shows: the machine may be busy."""

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def open_page(
    *, width: int = 1_200, height: int = 900, scheme: str = "light", options: Sequence[str] = ()
) -> Iterator[Page]:
    """Open a page of a new browser. Every error of its scripts and of its security policy fails the test."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "chromium is missing: apt-get install chromium, as .ci/run does"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    errors: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", *options]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]  # light or dark
        context.on("weberror", lambda found: errors.append(str(found.error)))
        context.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        yield page
        browser.close()
    assert errors == []


@contextmanager
def serving(application) -> Iterator[str]:
    """Serve an application on loopback; yields its address."""
    server = build_server(application)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
