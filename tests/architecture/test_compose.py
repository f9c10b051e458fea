"""docker-compose.yml: valid, watched, without a password of its own, and with a worker for every agent."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SUBSCRIBING = {"on", "on_error", "answers", "gather"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
    return services


def test_it_is_a_valid_compose_file():
    check = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]

    verdict = subprocess.run(check, capture_output=True, text=True, check=False)

    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_every_service_that_stays_up_has_a_health_check(services):
    unwatched = [
        name for name, service in services.items() if "healthcheck" not in service and service.get("restart") != "no"
    ]

    assert unwatched == []


def test_every_service_of_ours_waits_until_the_broker_is_healthy(services):
    ours = {name: service for name, service in services.items() if service["image"] == "petiole"}

    assert all(service["depends_on"]["valkey"] == {"condition": "service_healthy"} for service in ours.values())


def test_there_is_no_default_password():
    text = COMPOSE.read_text()

    mentions = re.findall(r"\$\{VALKEY_PASSWORD(.)(.)", text)
    literal = re.findall(r"redis://:(?!\$\{)", text)

    assert set(mentions) == {(":", "?")}
    assert literal == []


def test_the_broker_loses_and_evicts_nothing(services):
    command = services["valkey"]["command"]

    settings = dict(zip(command[1::2], command[2::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--appendfsync"] == "always"
    assert settings["--maxmemory-policy"] == "noeviction"


def test_every_agent_with_subscriptions_has_one_worker_service_and_publishing_too(services):
    queues = [queue for service in services.values() for queue in consumed_queues(service)]

    assert sorted(queues) == sorted(["publish", *agents_with_subscriptions()])


def test_every_worker_checks_the_node_that_it_is(services):
    workers = {name: service for name, service in services.items() if consumed_queues(service)}

    assert all(
        f"-n {name}@%h" in service["command"] and service["environment"]["NODE"] == name
        for name, service in workers.items()
    )


def consumed_queues(service: dict[str, Any]) -> list[str]:
    return re.findall(r"worker -Q (\S+)", str(service["command"]))


def agents_with_subscriptions() -> list[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "workers" / "agents").rglob("*.py")]
    return [name for tree in trees if subscribes(tree) for name in agents_named(tree)]


def agents_named(tree: ast.Module) -> list[str]:
    return [
        str(node.args[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Agent"
        and isinstance(node.args[0], ast.Constant)
    ]


def subscribes(tree: ast.Module) -> bool:
    decorators = [
        decorator
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
    ]
    return any(
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in SUBSCRIBING
        for decorator in decorators
    )
