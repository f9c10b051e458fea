"""Take the screens of docs/operations/screens from a real run: `python docs/screens.py`.

It starts `petiole up` in a folder of its own, publishes questions, and draws what `petiole top` and `petiole trace`
print for a terminal. One agent fails at its first attempt.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

SCREENS = Path(__file__).parent / "operations" / "screens"
COLUMNS = 100
TIMEOUT_S = 120.0
QUESTIONS = 200
BUNDLED = ("orchestrator", "memory", "tools", "llm", "output")
_WEB_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)

ARCHIVE = """
from petiole.events.catalog.output import MessageSentEvent
from petiole.tasks import Agent, Context, RetryPolicy

agent = Agent("archive")

@agent.on("output.message.sent", retry=RetryPolicy(base=0.2))
def store(event: MessageSentEvent, context: Context) -> None:
    if context.attempt == 1:
        raise ConnectionError("the archive is away")
"""

ASK = f"""
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
for number in range({QUESTIONS}):
    question = TextContent(text=f"What is {{number}} * 7?")
    publish(TextMessageEvent(stream_id=f"caller-{{number}}", content=question))
"""


def main() -> None:
    """Run a system and write the screens."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "archive.py").write_text(ARCHIVE, encoding="utf-8")
        environment = build_environment(folder)
        system = subprocess.Popen([*_PETIOLE, "up"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_for(has_started, folder, environment)
            with subprocess.Popen([sys.executable, "-c", ASK], cwd=folder, env=environment):
                _draw("top", ["top", "--once", "--interval", "5"], folder, environment)
            wait_for(_is_idle, folder, environment)
            _draw("trace", ["trace", "--last", "1"], folder, environment)
        finally:
            system.terminate()
            system.wait(timeout=60)


_PETIOLE = [sys.executable, "-m", "petiole.workers.cli"]


def build_environment(folder: str) -> dict[str, str]:
    """Build the environment of a system in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    return kept | {
        "PETIOLE_HOME": folder,
        "PETIOLE_METRICS": "true",
        "PETIOLE_AGENTS": ",".join([*(f"petiole.workers.agents.{name}" for name in BUNDLED), "archive"]),
        "PYTHONPATH": folder,
        "COLUMNS": str(COLUMNS),
    }


def wait_for(condition: Callable[[Any], bool], folder: str, environment: dict[str, str]) -> None:
    """Wait until the figures of `petiole top` fulfil a condition. Raises TimeoutError."""
    command = [*_PETIOLE, "top", "--once", "--json", "--interval", "0.1"]
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        # Fails until the broker runs.
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
        if done.returncode == 0 and condition(json.loads(done.stdout)):
            return
    raise TimeoutError(f"{condition.__name__} was not true within {TIMEOUT_S:g} s")


def has_started(figures: Any) -> bool:
    """Return whether all agents have started."""
    started = {each["agent"] for each in figures["agents"] if each["state"] == "started"}
    return started >= {*BUNDLED, "archive"}


def _is_idle(figures: Any) -> bool:
    return not figures["delayed"] and not any(each["depth"] or each["in_flight"] for each in figures["agents"])


def _run(command: list[str], folder: str, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _draw(name: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Write what a command prints in a terminal with colours as a picture."""
    printed = _run([*_PETIOLE, *arguments], folder, environment | {"FORCE_COLOR": "1"})
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(printed.rstrip()))
    picture = console.export_svg(title=f"petiole {' '.join(arguments)}", unique_id=name)
    SCREENS.mkdir(exist_ok=True)
    # The pages load nothing from elsewhere: without web fonts the browser's own monospaced font is used.
    (SCREENS / f"{name}.svg").write_text(_WEB_FONTS.sub("", picture), encoding="utf-8")


if __name__ == "__main__":
    main()
