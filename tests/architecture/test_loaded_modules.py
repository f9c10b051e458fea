"""What a process loads: a service that only publishes imports nothing of what handles events."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

UNUSED_BY_A_PUBLISHER = (
    # The in-process bus and the test harness.
    "fakeredis",
    "lupa",
    "petiole.tasks.testing",
    "pytest",
    # What consumes, handles and settles.
    "celery.worker",
    "petiole.tasks.agents",
    "petiole.tasks.consuming",
    "petiole.tasks.delivery",
    "petiole.tasks.handler_context",
    "petiole.tasks.handling.invocation",
    "petiole.tasks.instrumentation.event_counter",
    "petiole.tasks.instrumentation.worker_records",
    "petiole.tasks.settlement.settlement",
    # An operator's tools, and the features that a publish does not use.
    "petiole.tasks.dead_letters",
    "petiole.tasks.operations",
    "petiole.tasks.patterns",
    "petiole.tasks.requests",
    "petiole.tasks.resilience",
    "petiole.tasks.sessions.session",
    "petiole.tasks.streaming",
    "prometheus_client",
    "tenacity",
    # The bundled agents and their providers.
    "mcp",
    "numpy",
    "onnxruntime",
    "openai",
    "petiole.workers",
    "rich",
    "structlog",
)

LAZY_PACKAGES = ("petiole", "petiole.events", "petiole.tasks", "petiole.tasks.instrumentation", "petiole.tasks.testing")

PUBLISH = """
from petiole import TextMessageEvent, publish
publish(TextMessageEvent.model_validate({"stream_id": "s", "content": {"text": "hello"}}))
"""


def test_a_service_that_imports_publish_loads_nothing_of_what_handles_events():
    assert unused_by_a_publisher(loaded_by("from petiole import Event, EventBus, publish, publish_many")) == set()


def test_the_first_publish_loads_nothing_of_what_handles_events(clean_broker_url):
    loaded = loaded_by(PUBLISH, PETIOLE_BROKER_URL=clean_broker_url)

    assert "petiole.tasks.transport.channel" in loaded
    assert unused_by_a_publisher(loaded) == set()


def test_the_first_publish_loads_no_opentelemetry(clean_broker_url):
    # redis-py imports `opentelemetry.metrics`, and what is installed of the SDK.
    without_sdk = "import sys; sys.modules['opentelemetry.sdk'] = None"

    loaded = loaded_by(f"{without_sdk}\n{PUBLISH}", PETIOLE_BROKER_URL=clean_broker_url)

    assert {"opentelemetry.trace", "opentelemetry.propagate"} & loaded == set()


def test_publish_loads_the_event_classes_of_the_publisher_and_those_of_the_backbone():
    loaded = loaded_by("from petiole import TextMessageEvent, publish")

    catalog = {name.rpartition(".")[2] for name in loaded if name.startswith("petiole.events.catalog.")}
    assert catalog == {"input", "message", "request"}


@pytest.mark.parametrize("name", ["dead_letters", "guarded", "open_session", "report"])
def test_what_acts_on_the_default_bus_finds_it_without_an_import_of_publish(name):
    program = f"from petiole.tasks import {name}; from petiole.tasks.handling.current import current_bus; current_bus()"

    assert "petiole.tasks.bus" in loaded_by(program)


def test_pytest_loads_the_harness_only_for_a_test_that_asks_for_it():
    assert "petiole.tasks.testing.harness" not in loaded_by("import petiole.tasks.testing.plugin")


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_every_name_of_a_lazy_package_is_the_one_that_type_checkers_see(package):
    module = importlib.import_module(package)
    declared = names_for_type_checkers(Path(str(module.__file__)))

    handed_on = {name: getattr(module, name) for name in module.__all__}

    assert {name: handed_on[name] for name in declared} == {name: found(*at) for name, at in declared.items()}
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_a_misspelt_name_is_refused_with_the_name_of_its_package(package):
    module = importlib.import_module(package)

    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'publsh'"):
        _ = module.publsh


def loaded_by(program: str, **environment: str) -> set[str]:
    """Run a program in a fresh interpreter, and return the names of the modules that it loaded."""
    shown = f"{program}\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", shown]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def unused_by_a_publisher(loaded: set[str]) -> set[str]:
    return {name for name in loaded if f"{name}.".startswith(tuple(f"{unused}." for unused in UNUSED_BY_A_PUBLISHER))}


def names_for_type_checkers(path: Path) -> dict[str, tuple[str, str]]:
    """Read the imports under `if TYPE_CHECKING`: of each name, its module and its name there."""
    blocks = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: (str(node.module), alias.name) for node in imports for alias in node.names}


def found(module: str, name: str) -> object:
    """Import a name from the module that defines it, or the module of that name."""
    origin = importlib.import_module(module)
    return getattr(origin, name) if hasattr(origin, name) else importlib.import_module(f"{module}.{name}")
