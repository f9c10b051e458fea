"""`petiole schemas` and `petiole asyncapi`: the contract of a system for CI and for other languages."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from petiole.events.asyncapi import SystemInfo, build_asyncapi
from petiole.events.registry import EventRegistry
from petiole.events.subscriptions import Subscription
from petiole.workers.cli import asyncapi, petiole
from tests.support.apps import a_bus
from tests.support.processes import ROOT

OFFICIAL = next(iter(sorted((ROOT / "build").glob("asyncapi-specs-*.tgz"))), None)
"""The npm package of the official schema, which .ci/run fetches: the project ships no copy of it."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(petiole, arguments)


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("PETIOLE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("export") / "schemas"
    assert run("schemas", "export", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def exported(tmp_path: Path, export: Path) -> Path:
    return Path(shutil.copytree(export, tmp_path / "schemas"))


def change(schemas: Path, topic: str, **changes: Any) -> None:
    path = schemas / f"{topic}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_types_of_this_process_do_not_differ_from_their_own_export(exported):
    shown = run("schemas", "diff", str(exported))

    assert (shown.output, shown.exit_code) == ("no changes\n", 0)


def test_a_breaking_change_ends_with_1_and_says_what_to_do(exported):
    change(exported, "input.message.received", required=[])

    shown = run("schemas", "diff", str(exported))

    assert shown.exit_code == 1
    assert "became_required" in shown.output
    assert "raise schema_version, and add an upcaster" in shown.output


def test_a_compatible_change_ends_with_0(exported):
    (exported / "input.message.received.json").unlink()

    shown = run("schemas", "diff", str(exported), "--json")

    assert shown.exit_code == 0
    assert [each["kind"] for each in json.loads(shown.output)] == ["type_added"]


def test_two_exports_are_compared_with_each_other(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "newer")
    (tmp_path / "newer" / "agent.started.json").unlink()

    assert run("schemas", "diff", str(exported), str(tmp_path / "newer")).exit_code == 1
    assert run("schemas", "diff", str(tmp_path / "newer"), str(exported)).exit_code == 0


def references(document: Any) -> set[str]:
    match document:
        case {"$ref": str(reference)}:
            return {reference}
        case dict():
            return {found for member in document.values() for found in references(member)}
        case list():
            return {found for member in document for found in references(member)}
    return set()


def document_of(*subscriptions: Subscription) -> dict[str, Any]:
    registry = EventRegistry()
    registry.declare("custom.data_updated", {"entity_id": str, "count": int}, description="A record changed.")
    return build_asyncapi(SystemInfo("Shop", "7"), registry.all(), subscriptions)


SUBSCRIPTION = Subscription(agent="clerk", function="prepare", patterns=("input.*", "custom.*"))


def test_every_reference_of_the_document_has_a_target():
    document = document_of(SUBSCRIPTION)

    for reference in references(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_fields_that_are_called_like_keywords_stay_in_the_document():
    registry = EventRegistry()
    registry.declare("custom.odd", {"discriminator": dict, "prefixItems": list[str], "pair": tuple[int, str]})

    document = build_asyncapi(SystemInfo("Shop", "7"), registry.custom(), [])

    (fields,) = [
        schema["properties"]
        for schema in document["components"]["schemas"].values()
        if "prefixItems" in schema.get("properties", {})
    ]
    assert set(fields) == {"discriminator", "prefixItems", "pair"}
    assert [each["type"] for each in fields["pair"]["items"]] == ["integer", "string"]


def test_a_subscription_receives_each_type_that_one_of_its_patterns_matches():
    operations = document_of(SUBSCRIPTION)["operations"]

    received = {name.split()[2] for name in operations if name.startswith("receive clerk.prepare ")}

    assert {"input.message.received", "custom.data_updated"} <= received
    assert {topic.split(".")[0] for topic in received} == {"input", "custom"}
    assert operations["receive clerk.prepare input.message.received"]["action"] == "receive"


def test_the_document_is_valid_by_the_official_schema():
    if OFFICIAL is None:
        missing = "build/ has no @asyncapi/specs: npm pack it there, as .ci/run does"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with tarfile.open(OFFICIAL) as package:
        file = package.extractfile("package/schemas/3.0.0.json")
        assert file is not None
        schema = json.load(file)
    document = document_of(SUBSCRIPTION)

    jsonschema.Draft7Validator(schema).validate(document)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(document | {"operations": {"x": {"action": "shout"}}})


def test_the_command_describes_the_bundled_agents():
    document = json.loads(run("asyncapi", "--title", "Team", "--system-version", "2").stdout)

    assert document["info"] == {"title": "Team", "version": "2"}
    assert "receive tools.run_call tools.execution.requested" in document["operations"]
    assert "servers" not in document


def test_a_live_document_has_the_systems_subscriptions_and_no_secret(clean_broker_url, monkeypatch, tmp_path):
    bus = a_bus(clean_broker_url, SUBSCRIPTION)
    secret = clean_broker_url.replace("redis://", "redis://user:hunter2@", 1)
    monkeypatch.setattr(asyncapi, "connected_app", lambda: bus)
    bus.app.conf.update(broker_url=secret)

    run("asyncapi", "--live", "--output", str(tmp_path / "live.json"))

    document = json.loads((tmp_path / "live.json").read_text())
    assert "receive clerk.prepare custom.*" in document["operations"]
    assert document["servers"]["broker"]["protocol"] == "redis"
    assert "hunter2" not in (tmp_path / "live.json").read_text()
