"""A bus in this process whose token file has one token for each role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from petiole.events import FormattedResponse, ResponseReadyEvent, TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from tests.journeys.access.surfaces import TOKENS


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventTestHarness]:
    home = tmp_path_factory.mktemp("home")
    (home / "tokens").write_text(TOKENS)
    (home / "tokens").chmod(0o600)
    agent = Agent("parrot")

    @agent.on("input.message.received")
    def answer(event: TextMessageEvent) -> ResponseReadyEvent:
        return event.caused(ResponseReadyEvent, content=FormattedResponse(text=f"answer to {event.content.text}"))

    with EventTestHarness([agent], settings=Settings(home=home)) as team:
        yield team
