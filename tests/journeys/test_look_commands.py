"""The commands that only look: `petiole types`, `config` and `counters`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner

from petiole.workers.cli import petiole
from petiole.workers.cli.counters import MEANINGS
from petiole.workers.settings import MODELS
from tests.support.apps import a_bus, command_line

ROOT = Path(__file__).resolve().parents[2]

OWN_TYPES = r"""
from petiole.events.registry import registry
from petiole.tasks import Agent

registry.declare("custom.pear_sold", {"pieces": int}, description="A pear was sold, to somebody who came to the shop.")
shop = Agent("shop")

@shop.on("custom.pear_sold")
def count(event) -> None:
    pass
"""


def test_types_of_the_modules_in_petiole_agents_are_listed_with_their_parameters(node):
    node.module("shop", OWN_TYPES)
    node.environment["PETIOLE_AGENTS"] = "shop"

    (listed,) = json.loads(node.command("types", "--own", "--json"))
    lines = node.command("types", "custom.*").splitlines()

    assert (listed["topic"], listed["is_builtin"]) == ("custom.pear_sold", False)
    assert [(each["name"], each["type"], each["is_required"]) for each in listed["fields"]] == [
        ("content.parameters.pieces", "integer", True)
    ]
    assert any(re.fullmatch(r"content\.parameters\.pieces +integer +required *", line) for line in lines)


def test_a_type_is_shown_with_the_fields_of_its_content_and_of_what_they_contain():
    shown = CliRunner().invoke(petiole, ["types", "llm.response.generated", "--json"])

    fields = {each["name"]: each for each in json.loads(shown.stdout)[0]["fields"]}
    assert fields["content.text"]["is_required"]
    assert fields["content.usage"]["type"] == "Usage"
    assert fields["content.usage.input_tokens"]["default"] == "0"
    assert "content.calls[].tool" in fields


def test_the_list_of_types_has_one_line_per_type_when_it_is_piped():
    listed = json.loads(CliRunner().invoke(petiole, ["types", "--json"]).stdout)
    lines = CliRunner().invoke(petiole, ["types"]).stdout.splitlines()

    assert len(lines) == 1 + len(listed)


def test_a_pattern_that_matches_no_type_is_refused_with_the_nearest():
    shown = CliRunner().invoke(petiole, ["types", "input.mesage.received"])

    assert shown.exit_code == 1
    assert "did you mean 'input.message.received'?" in shown.stderr


def test_config_shows_every_setting_with_its_source_and_no_secret(node):
    secrets = ("a-password", "an-api-key")
    node.environment.update(
        PETIOLE_STATE_URL=f"redis://:{secrets[0]}@127.0.0.1:6379/0", OPENAI_API_KEY=secrets[1], PETIOLE_MAX_HOPS="8"
    )

    shown = node.command("config", "--json") + node.command("config")

    settings = {each["variable"]: (each["value"], each["source"]) for each in json.loads(shown.splitlines()[0])}
    assert len(settings) == sum(len(model.model_fields) for model in MODELS)
    assert settings["PETIOLE_MAX_HOPS"] == ("8", "environment")
    assert settings["PETIOLE_TICK_INTERVAL_S"] == ("60", "default")
    assert settings["PETIOLE_STATE_URL"] == ("redis://***@127.0.0.1:6379/0", "environment")
    assert settings["OPENAI_API_KEY"] == ("***", "environment")
    assert settings["PETIOLE_BROKER_URL"][1] == "environment"
    assert settings["PETIOLE_INBOUND_WEBHOOKS"] == ("", "default")
    assert not any(secret in shown for secret in secrets)


def test_config_tells_of_an_address_that_celery_or_the_embedded_broker_gives(node):
    del node.environment["PETIOLE_BROKER_URL"]
    node.module("celeryconfig", 'broker_url = "redis://:a-password@127.0.0.1:6379/3"')

    shown = json.loads(node.command("config", "--json"))

    addresses = {
        each["variable"]: (each["value"], each["source"]) for each in shown if each["variable"].endswith("_URL")
    }
    assert addresses["PETIOLE_BROKER_URL"] == ("redis://***@127.0.0.1:6379/3", "Celery's broker_url")
    assert addresses["PETIOLE_STATE_URL"] == ("redis://***@127.0.0.1:6379/3", "broker")


def test_counters_are_shown_with_what_they_count(clean_broker_url, a_message, monkeypatch):
    bus = a_bus(clean_broker_url)
    type_ = command_line(bus, monkeypatch)
    bus.publish(a_message())

    counts = json.loads(type_("counters", "--json").stdout)

    assert counts == dict.fromkeys(MEANINGS, 0) | {"unrouted": 1}
    assert re.search(r"^unrouted +1 +events to which nothing subscribed", type_("counters").stdout, re.MULTILINE)


def test_every_counter_that_the_code_counts_has_a_meaning():
    found: set[str] = set()
    for file in (*(ROOT / "tasks").rglob("*.lua"), *(ROOT / "tasks").rglob("*.py"), *(ROOT / "workers").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(r"HINCRBY', counters, '(\w+)", text))
        found |= set(re.findall(r"counters\.add\(f?\"(\w+)", text))
        found |= set(re.findall(r"^\w+_COUNTER = \"(\w+)\"", text, re.MULTILINE))

    assert found == set(MEANINGS)
