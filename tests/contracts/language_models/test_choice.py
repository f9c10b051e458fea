"""How a language model is chosen, and what is told where it cannot run."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from petiole.events.errors import NotConfigured, ProviderUnavailable, UsageError
from petiole.workers.llm import create_model
from petiole.workers.settings import WorkerSettings
from tests.contracts.language_models.asking import CLOCK, a_request
from tests.support.endpoint import Endpoint
from tests.support.errors import has_code


def test_rules_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PETIOLE_LLM", raising=False)
    assert WorkerSettings().llm == "rules"

    monkeypatch.setenv("PETIOLE_LLM", "openai")
    assert WorkerSettings().llm == "openai"


@pytest.mark.parametrize(
    "name", ["gpt", "provider", "", "no.such.module:Model", "petiole.workers.llm.rules:Nobody", ":", "a:"]
)
def test_an_unknown_model_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UsageError, match=r"'local', 'openai', 'rules', or 'package.module:Class'"):
        create_model(name)


def test_a_model_of_your_own_is_named_by_its_class() -> None:
    assert create_model("petiole.workers.llm.rules:RuleBasedModel").name == "rules"


@pytest.mark.parametrize("name", ["pathlib:Path", "petiole.workers.llm:list_models"])
def test_what_is_no_model_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"class|not a language model"):
        create_model(name)


def test_the_local_model_is_asked_briefly_and_offered_no_tools(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, ask: Any
) -> None:
    pytest.importorskip("openai")

    ask(create_model("local"), a_request(), tools=(CLOCK,))

    (asked,) = endpoint.asked
    assert asked["model"] == "smollm2-135m"
    assert "tools" not in asked
    assert asked["max_tokens"] > 0


def test_a_local_model_that_does_not_run_is_told_how_to_start(monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", f"http://127.0.0.1:{gone.server_port}/v1")

    with pytest.raises(ProviderUnavailable, match="petiole llm serve"):
        ask(create_model("local"), a_request())


def test_the_local_model_s_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"pip install 'petiole\[llm\]'"):
        create_model("local")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(UsageError, check=has_code("missing_extra"), match=r"pip install 'petiole\[openai\]'"):
        create_model("openai")


@pytest.mark.parametrize("missing", ["PETIOLE_LLM_MODEL", "PETIOLE_LLM_BASE_URL"])
def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, missing: str) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv(missing)

    with pytest.raises(NotConfigured, match=missing):
        create_model("openai")
