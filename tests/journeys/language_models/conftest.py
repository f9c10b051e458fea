"""A team whose language model stands behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from petiole.events.subscriptions import OnBusy
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from tests.journeys.language_models.team import Team
from tests.support.endpoint import Endpoint, serving


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PETIOLE_LLM", "openai")
    monkeypatch.setenv("PETIOLE_LLM_MODEL", "parrot")
    with serving() as made:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", made.base_url)
        llm._cached_model.cache_clear()
        yield made
        llm._cached_model.cache_clear()


@pytest.fixture
def team(endpoint: Endpoint) -> Iterator[Team]:
    """Make a team whose llm agent does as is said; `without` leaves agents out, `more` adds some."""
    made: list[EventTestHarness] = []

    def build(
        on_busy: OnBusy | None = None, *, without: tuple[Agent, ...] = (), more: tuple[Agent, ...] = ()
    ) -> EventTestHarness:
        writer = Agent("llm")
        writer.on("orchestrator.llm.requested", on_busy=on_busy, retry=llm.MODEL_RETRY_POLICY)(llm.answer)
        agents = [writer, *more, *(module.agent for module in (orchestrator, memory, tools, output))]
        made.append(EventTestHarness([agent for agent in agents if agent not in without]))
        return made[-1]

    yield build
    for harness in made:
        harness.close()
