"""Draw docs/operations/screens/dashboard.png from a real run: `python docs/dashboard.py`.

It starts `petiole up` with metrics, and a Prometheus that scrapes it, publishes questions in waves for three minutes,
and draws Prometheus's answers to the queries of the dashboard. Needs Debian's package `prometheus`, and matplotlib.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpx2
import matplotlib as mpl
import matplotlib.pyplot as plt
from screens import ARCHIVE, build_environment, has_started, wait_for

DOCS = Path(__file__).parent
DASHBOARD = DOCS / "operations" / "grafana" / "petiole.json"
PICTURE = DOCS / "operations" / "screens" / "dashboard.png"
LASTS_S = 180
STEP_S = 2
COLUMNS = 3

PUBLISH = f"""
import math, time
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
began = time.monotonic()
number = 0
while (passed := time.monotonic() - began) < {LASTS_S}:
    question = TextContent(text=f"What is {{number}} * 7?")
    publish(TextMessageEvent(stream_id=f"caller-{{number}}", content=question))
    number += 1
    time.sleep(0.12 - 0.1 * math.sin(passed / 20) ** 2)
"""


def main() -> None:
    """Run a system and a Prometheus, and draw the dashboard."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "archive.py").write_text(ARCHIVE, encoding="utf-8")
        metrics, prometheus = _free_port(), _free_port()
        environment = build_environment(folder) | {"PETIOLE_METRICS_PORT": str(metrics)}
        command = [sys.executable, "-m", "petiole.workers.cli", "up"]
        system = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        scraping = _start_prometheus(Path(folder), prometheus, metrics)
        try:
            wait_for(has_started, folder, environment)
            began = time.time()
            subprocess.run([sys.executable, "-c", PUBLISH], cwd=folder, env=environment, check=True)
            _draw(f"http://127.0.0.1:{prometheus}", began, time.time())
        finally:
            for process in (scraping, system):
                process.terminate()
                process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start_prometheus(folder: Path, port: int, scraped: int) -> subprocess.Popen[bytes]:
    configuration = {
        "global": {"scrape_interval": f"{STEP_S}s"},
        "scrape_configs": [{"job_name": "petiole", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    options = {
        "--config.file": folder / "prometheus.yml",
        "--storage.tsdb.path": folder / "series",
        "--web.listen-address": f"127.0.0.1:{port}",
    }
    command = ["prometheus", *(f"{name}={value}" for name, value in options.items())]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))


def _query(url: str, expression: str, began: float, ended: float) -> list[Any]:
    query = expression.replace("$__rate_interval", "20s")
    asked = {"query": query, "start": began, "end": ended, "step": STEP_S}
    return list(httpx2.get(f"{url}/api/v1/query_range", params=asked, timeout=30).json()["data"]["result"])


def _draw(url: str, began: float, ended: float) -> None:
    """Draw the panels that have data."""
    panels = {
        panel["title"]: [found for target in panel["targets"] for found in _query(url, target["expr"], began, ended)]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        if panel["type"] != "row"
    }
    shown = [(title, series) for title, series in panels.items() if series]
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    rows = math.ceil(len(shown) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(15, 3 * rows), layout="constrained")
    for (title, series), axis in zip_longest(shown, axes.flat, fillvalue=("", [])):
        axis.set_axis_on() if title else axis.set_axis_off()
        axis.set_title(title, loc="left", weight="bold")
        axis.set_xlim(0, ended - began)
        for each in series:
            points = [(at - began, float(value)) for at, value in each["values"] if value != "NaN"]
            axis.plot(*zip(*points, strict=True), label=", ".join(each["metric"].values())) if points else None
        axis.set_ylim(bottom=0)
        if title:
            axis.legend(frameon=False, fontsize=5, loc="upper left", ncols=2)
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
