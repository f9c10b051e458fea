"""docs/operations: rules, dashboard and pages name the metrics that exist, and the compose file mounts what exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from petiole.tasks import EventBus
from petiole.tasks.operations.prometheus import render_metrics

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "docs" / "operations"
DASHBOARD = OPERATIONS / "grafana" / "petiole.json"
GUIDE = ROOT / "docs" / "guides" / "metrics.md"
ADDED_LABELS = {"instance", "job", "le"}
SUFFIXES = r"(?:_total|_bucket|_count|_sum)?"
SELECTOR = re.compile(r"\b(petiole_[a-z_]+)(?:\{([^}]*)\})?")


def metrics_of_the_guide() -> dict[str, set[str]]:
    """Return the labels of each metric."""
    rows = re.findall(r"^\| `(petiole_\w+)` \| ([^|]*) \|", GUIDE.read_text(), re.MULTILINE)
    return {re.sub(r"_total$", "", name): set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def expressions() -> list[str]:
    rules = [rule for group in YAML(typ="safe").load(OPERATIONS / "alerts.yml")["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = re.findall(r"query: (.*)", (OPERATIONS / "kubernetes.md").read_text())
    return [
        *(rule["expr"] for rule in rules),
        *(target["expr"] for panel in panels for target in panel.get("targets", ())),
        *queries,
    ]


def test_the_guide_lists_every_metric_of_the_page():
    with EventBus() as bus:
        families = {family.name for family in text_string_to_metric_families(render_metrics(bus))}

    assert set(metrics_of_the_guide()) == families


def test_rules_dashboard_and_scaler_use_metrics_and_labels_that_exist():
    known = metrics_of_the_guide()

    for expression in expressions():
        labels = set(ADDED_LABELS)
        for name, matchers in SELECTOR.findall(expression):
            family = name if name in known else re.sub(f"{SUFFIXES}$", "", name)
            assert family in known, f"{name} in {expression}"
            labels |= known[family]
            assert set(re.findall(r"(\w+)=", matchers)) <= known[family], expression
        grouped = {
            word for group in re.findall(r"(?:by|without) \(([^)]*)\)", expression) for word in group.split(", ")
        }
        assert grouped <= labels, expression


def test_counters_are_summed_up_only_after_the_workers_were_made_one():
    """Every worker serves the figures of the whole system."""
    summed = [expression for expression in expressions() if "sum" in expression]

    assert summed
    assert all("max without (instance, job)" in expression for expression in summed)


def test_the_page_lists_every_alert_with_a_command_or_a_place_to_look():
    alerts = re.findall(r"- alert: (\w+)", (OPERATIONS / "alerts.yml").read_text())

    assert re.findall(r"^\| `(Petiole\w+)` \|", (OPERATIONS / "observability.md").read_text(), re.MULTILINE) == alerts


def test_the_panels_of_the_dashboard_overlap_nowhere_and_each_has_a_description():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]

    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["type"] == "row" or panel["description"] for panel in panels)


def test_every_file_that_the_compose_file_mounts_is_there():
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    mounted = [volume.split(":")[0] for each in services.values() for volume in each.get("volumes", ())]

    files = [ROOT / path for path in mounted if path.startswith("./")]

    assert len(files) >= 6
    assert [path for path in files if not path.is_file()] == []


@pytest.fixture
def promtool():
    """Return a function that runs promtool. Skip without Debian's package, or fail under CI=true."""
    if (command := shutil.which("promtool")) is None:
        missing = "promtool is missing: apt-get install prometheus, as .ci/run does"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)

    def run(*arguments: str | Path) -> None:
        done = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_prometheus_reads_the_configuration_and_the_alert_rules_hold_their_tests(promtool):
    promtool("check", "rules", OPERATIONS / "alerts.yml")
    promtool("check", "config", "--syntax-only", OPERATIONS / "prometheus.yml")
    promtool("test", "rules", OPERATIONS / "alerts_test.yml")


def test_prometheus_can_run_the_queries_of_the_dashboard_and_of_the_scaler(promtool, tmp_path):
    """As recording rules, because promtool checks the queries of rules only."""
    queries = [re.sub(r"\$__\w+", "5m", expression) for expression in expressions()]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))

    promtool("check", "rules", file)
