"""docker-compose.yml, Dockerfile: valid, health-checked, without a default password, one worker service per agent."""

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
DOCKERFILE = ROOT / "Dockerfile"
USERS = {"console": "operator"}
"""Services that use the broker as the user of another one."""

SUBSCRIBING_DECORATORS = {"on", "on_error", "on_include", "answers", "gather"}


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

    check_result = subprocess.run(check, capture_output=True, text=True, check=False)

    assert check_result.returncode == 0, check_result.stdout + check_result.stderr


def test_every_service_that_stays_up_has_a_health_check(services):
    unwatched = [
        name for name, service in services.items() if "healthcheck" not in service and service.get("restart") != "no"
    ]

    assert unwatched == []


def test_every_service_of_our_image_waits_until_the_broker_is_healthy(services):
    ours = {name: service for name, service in services.items() if service["image"] == "petiole"}

    assert all(service["depends_on"]["valkey"] == {"condition": "service_healthy"} for service in ours.values())


def test_there_is_no_password_in_the_file_and_each_service_gets_its_own(services):
    ours = {name: service for name, service in services.items() if service["image"] == "petiole"}

    assert re.findall(r"rediss?://", COMPOSE.read_text()) == []
    assert {name: service["env_file"][0] for name, service in ours.items()} == {
        name: f"secrets/{USERS.get(name, name)}.env" for name in ours
    }


def test_the_policy_is_on_and_the_broker_speaks_tls_only(services):
    command = services["valkey"]["command"]
    ours = [service for service in services.values() if service["image"] == "petiole"]

    assert dict(zip(command[1::2], command[2::2], strict=True)).items() >= {"--port": "0", "--tls-port": "6379"}.items()
    assert {service["environment"]["PETIOLE_POLICY"] for service in ours} == {"/etc/petiole/policy.toml"}
    assert {service["environment"]["PETIOLE_SIGNING_KEYS"] for service in ours} == {"/run/secrets/signing_keys"}


def test_the_broker_has_a_user_for_each_service(services):
    lines = (ROOT / "docs" / "operations" / "compose" / "users.acl").read_text().splitlines()
    users = {line.split()[1] for line in lines if line.startswith("user ")}

    ours = {name for name, service in services.items() if service["image"] == "petiole"}

    assert users == {USERS.get(name, name) for name in ours} | {"default", "health", "service"}


def test_ports_are_open_on_loopback_only_and_the_console_keeps_its_tokens(services):
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    console = services["console"]

    assert all(port.startswith("127.0.0.1:") for mapped in ports.values() for port in mapped)
    assert "console" in ports
    assert f"console:{console['environment']['PETIOLE_HOME']}" in console["volumes"]


def test_the_image_has_the_extras_of_the_commands_that_services_run():
    (extras,) = re.findall(r"'/source\[([a-z,]+)\]'", DOCKERFILE.read_text())

    assert {"console", "oidc", "sse"} <= set(extras.split(","))


def test_the_broker_loses_and_evicts_nothing(services):
    command = services["valkey"]["command"]

    settings = dict(zip(command[1::2], command[2::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--appendfsync"] == "always"
    assert settings["--maxmemory-policy"] == "noeviction"


def test_every_agent_with_subscriptions_has_one_worker_service_and_publishing_too(services):
    queues = [queue for service in services.values() for queue in consumed_queues(service)]

    assert sorted(queues) == sorted(["publish", *agents_with_subscriptions()])


def test_the_health_check_of_every_worker_service_asks_its_own_node(services):
    workers = {name: service for name, service in services.items() if consumed_queues(service)}

    assert all(
        f"-n {name}@%h" in service["command"] and service["environment"]["NODE"] == name
        for name, service in workers.items()
    )


def test_every_command_names_the_app_by_the_name_that_the_image_installs(services):
    texts = [COMPOSE.read_text(), " ".join(re.findall(r'"([^"]*)"', DOCKERFILE.read_text()))]

    apps = {app for text in texts for app in re.findall(r"celery -A (\S+)", text)}

    assert apps == {"petiole.workers"}


def test_the_build_context_holds_every_file_that_the_image_installs():
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    packaged = {path.name for path in (ROOT / "petiole").iterdir() if path.is_symlink()}

    sent = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}

    assert sent >= packaged | {
        "petiole",
        "pyproject.toml",
        "constraints.txt",
        "celeryconfig.py",
        "README.md",
        "LICENSE",
    }


def consumed_queues(service: dict[str, Any]) -> list[str]:
    return re.findall(r"worker -Q (\S+)", str(service.get("command")))


def agents_with_subscriptions() -> list[str]:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "workers" / "agents").rglob("*.py")]
    return [name for tree in trees if subscribes(tree) for name in agents_declared(tree)]


def agents_declared(tree: ast.Module) -> list[str]:
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
    called = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in decorators]
    return any(isinstance(name, ast.Attribute) and name.attr in SUBSCRIBING_DECORATORS for name in called)
