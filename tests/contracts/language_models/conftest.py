"""Language models, and an endpoint that they ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events.catalog.llm import GeneratedResponse
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.workers.llm import LanguageModel, create_model, list_models
from petiole.workers.llm.provider import ResponseBuilder, ResponsePart, ToolDescription
from tests.contracts.language_models.asking import ENDPOINTS
from tests.support.endpoint import Endpoint, serving


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "PETIOLE_LLM_TIMEOUT_S", "PETIOLE_LLM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PETIOLE_LLM_MODEL", "parrot")
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as made:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", made.base_url)
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", made.base_url)
        yield made


@pytest.fixture(params=list_models())
def model(request: pytest.FixtureRequest, endpoint: Endpoint) -> LanguageModel:
    if request.param in ENDPOINTS:
        pytest.importorskip("openai")
    return create_model(request.param)


@pytest.fixture
def openai_model(endpoint: Endpoint) -> LanguageModel:
    pytest.importorskip("openai")
    return create_model("openai")


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def parts(loop: asyncio.Runner) -> Any:
    """Have a model answer, and list the parts."""

    def collected(
        model: LanguageModel, request: ModelRequest, tools: tuple[ToolDescription, ...] = ()
    ) -> list[ResponsePart]:
        async def collect() -> list[ResponsePart]:
            return [part async for part in model.answer(request, tools)]

        return loop.run(collect())

    return collected


@pytest.fixture
def ask(parts: Any) -> Any:
    """Have a model answer, and word the parts as a response."""

    def asked(model: LanguageModel, request: ModelRequest, **options: Any) -> GeneratedResponse:
        answer = ResponseBuilder()
        for part in parts(model, request, **options):
            answer.add(part)
        assert answer.finished is not None
        return answer.build(model.name, request)

    return asked
