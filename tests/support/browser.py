"""Debian's Chromium, driven by Playwright. Without it a test is skipped, and fails under CI=true."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright


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
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]  # light or dark
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
        page.set_default_timeout(20_000)
        yield page
        browser.close()
    assert errors == []
