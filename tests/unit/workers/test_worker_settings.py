from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from petiole.events.errors import UsageError
from petiole.tasks import Agent
from petiole.tasks.settings import variable_of
from petiole.workers.cli import petiole
from petiole.workers.settings import MODELS, WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
VARIABLES = [variable_of(model, field) for model in MODELS for field in model.model_fields]

# Celery and users import it to start a process: it reads the settings, as it starts the embedded broker.
ENTRY_POINTS = {"petiole.workers.celery", "petiole.workers.cli.__main__", "petiole.workers.conformance.worker_agents"}

IMPORT_ALL = f"""
import importlib, os, pkgutil
import wsgiref.handlers  # of the standard library, which copies the environment

class Watched(type(os.environ)):
    def __getitem__(self, name):
        assert name not in {VARIABLES!r}, f"{{name}} was read"
        return super().__getitem__(name)
    def __iter__(self):
        raise AssertionError("the environment was read as a whole")

os.environ.__class__ = Watched
import petiole
for module in pkgutil.walk_packages(petiole.__path__, "petiole."):
    if module.name not in {ENTRY_POINTS!r}:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # Of an extra that is not installed.
            assert not error.name.startswith("petiole"), error
"""


def test_no_setting_is_read_while_a_module_is_imported():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_subscriptions_with_settings_are_made_once_when_the_agent_is_included(monkeypatch):
    agent = Agent("clerk")

    @agent.on_include
    def subscribe() -> None:
        agent.on("input.*", on_busy=WorkerSettings().llm_on_busy)(answer)

    monkeypatch.setenv("PETIOLE_LLM_ON_BUSY", "shout")
    with pytest.raises(UsageError, match="PETIOLE_LLM_ON_BUSY is 'shout'"):
        _ = agent.subscriptions
    monkeypatch.setenv("PETIOLE_LLM_ON_BUSY", "reject")

    assert [each.on_busy for each in agent.subscriptions] == ["reject"]
    assert list(agent.handlers) == ["clerk.answer"]


def answer(event: object) -> None:
    """Do nothing."""


def test_names_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("PETIOLE_AGENTS", "shop.agents, petiole.workers.agents,")

    assert WorkerSettings().agents == ("shop.agents", "petiole.workers.agents")


def test_what_other_programs_read_has_its_name_there(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.delenv("PETIOLE_OPENAI_API_KEY", raising=False)

    key = WorkerSettings().openai_api_key

    assert key is not None
    assert key.get_secret_value() == "a-key"


def test_no_variable_belongs_to_two_settings():
    assert len(VARIABLES) == len(set(VARIABLES))


def test_a_command_warns_of_a_misspelled_variable(monkeypatch):
    monkeypatch.setenv("PETIOLE_BROKER_ULR", "redis://elsewhere")

    told = CliRunner().invoke(petiole, ["agents", "--help"])

    assert "did you mean PETIOLE_BROKER_URL?" in told.stderr


@pytest.mark.processes
@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_worker_does_not_start_with_a_bad_value_and_says_so_in_one_sentence(command, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    bad = {"PETIOLE_TICK_INTERVAL_S": "often", "PETIOLE_HOME": str(tmp_path / "home")}

    started = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "petiole.workers", command],
        cwd=tmp_path,
        env=environment | bad,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert started.returncode == 1
    assert started.stderr.strip() == (
        "error: PETIOLE_TICK_INTERVAL_S is 'often': input should be a valid number, unable to parse string as a "
        "number; change it, or unset it for the default, 60"
    )
    assert not (tmp_path / "home").exists()
