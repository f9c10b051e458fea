"""Follow every page of the documentation: write its files and run its commands, from top to bottom in one folder.

A `python` block that begins with `# name.py` is written to that file. Each line of a `sh` block is run. A command that
serves runs in the background until the next command of its kind, or until the end of the page. Pages that serve nothing
but a plain `petiole up` are followed by one reader, one after the other, who lets it run.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from petiole.workers.process import embedded_broker
from tests.support.forks import Fork

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

READY_TEXTS = {
    "petiole up": "In another terminal",
    "celery -A petiole.workers worker": "ready.",
    "celery -A proj": "ready.",
}
INPUTS = {"petiole chat": b"Hello\n/quit\n"}
TIMEOUT_S = 60
PROGRAMS = {name: [str(Path(sys.executable).with_name(name))] for name in ("celery", "petiole")} | {"python": []}


@dataclass(frozen=True)
class Reader:
    """A reader who follows a page in a new folder."""

    folder: Path
    environment: dict[str, str]
    serving: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def write(self, text: str) -> None:
        """Write a file that the page shows with its name."""
        name = text.partition("\n")[0].removeprefix("# ").strip()
        if name.endswith(".py"):
            (self.folder / name).write_text(text)

    def type(self, line: str, eventually) -> None:
        """Run one line of the page."""
        kind = next((kind for kind in READY_TEXTS if kind in line), None)
        if line.startswith("make "):
            self._succeed(f"make --dry-run --directory {ROOT} {line.removeprefix('make ')}")
        elif line.startswith(("source ", "sh docs/operations/compose/")) or "docker compose" in line:
            pass  # the environment is active already; tests/architecture checks the compose file
        elif kind is not None:
            self._serve(kind, line, eventually)
        else:
            self._succeed(line)

    def end(self) -> None:
        """Stop all serving commands with Ctrl-C."""
        for kind in list(self.serving):
            self._stop(kind)

    def _succeed(self, line: str) -> None:
        with TemporaryFile() as output:
            code = self._start(line, output).wait(timeout=TIMEOUT_S)
            output.seek(0)
            assert code == 0, f"$ {line}\n{output.read().decode()}"

    def _serve(self, kind: str, line: str, eventually) -> None:
        if (process := self.serving.get(kind)) and process.args == line == "petiole up":
            return  # it serves this page too
        self._stop(kind)
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as output:
            process = self._start(line + (" -l INFO" if "celery" in line else ""), output)
        process.args = line
        self.serving[kind] = process
        eventually(lambda: READY_TEXTS[kind] in log.read_text(), TIMEOUT_S, lambda: f"$ {line}\n{log.read_text()}")
        assert process.poll() is None, f"$ {line}\n{log.read_text()}"

    def _start(self, line: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a line of a shell, without one where it only names settings and a program of Python."""
        words = shlex.split(line)
        settings = [word for word in words[:3] if re.match("[A-Z_]+=", word)]
        program, *arguments = words[len(settings) :]
        keys = next((keys for command, keys in INPUTS.items() if command in line), None)
        if program in PROGRAMS and "pytest" not in words and keys is None and not set("|$") & set(line):
            environment = self.environment | dict(setting.split("=", 1) for setting in settings)
            return Fork([*PROGRAMS[program], *arguments], environment, self.folder, output, output)
        with TemporaryFile() as typed:
            typed.write(keys or b"")
            typed.seek(0)
            command = ["bash", "-c", line if settings or "|" in line else f"exec {line}"]
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=typed, stdout=output, stderr=output
            )

    def _stop(self, kind: str) -> None:
        if process := self.serving.pop(kind, None):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=TIMEOUT_S)


@pytest.fixture
def reader(tmp_path: Path, clean_broker_url: str) -> Iterator[Reader]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["PROJ_BROKER_URL"] = clean_broker_url
    # A pytest.ini of the reader's folder, so that pytest reads no configuration of a folder above.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    reader = Reader(tmp_path, environment)
    yield reader
    reader.end()
    embedded_broker.stop_broker(tmp_path / ".petiole")


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(block["language"], block["text"]) for block in BLOCK.finditer(page.read_text())]


def readings() -> list[list[Path]]:
    """List the pages that one reader follows."""
    pages = [page for page in PAGES if lines_of(page)]
    plain = [page for page in pages if {line for line in lines_of(page) if serves(line)} == {"petiole up"}]
    return [plain, *([page] for page in pages if page not in plain)]


def lines_of(page: Path) -> list[str]:
    return [line for language, text in blocks(page) if language == "sh" for line in text.splitlines()]


def serves(line: str) -> bool:
    return any(kind in line for kind in READY_TEXTS)


@pytest.mark.parametrize("pages", readings(), ids=lambda pages: ",".join(str(page.relative_to(ROOT)) for page in pages))
def test_the_commands_and_programs_of_a_page_work(pages, reader, eventually):
    for page in pages:
        for language, text in blocks(page):
            if language == "python":
                reader.write(text)
            elif language == "sh":
                for line in text.splitlines():
                    reader.type(line, eventually)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_has_a_target(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())

    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_functions_that_pages_name_exist(page):
    named = re.findall(r"`((?:events|tasks|workers|tests)/[\w/.]+\.(?:py|lua))(?:::(\w+))?`", page.read_text())
    functions = re.findall(r"`((?:events|tasks|workers)/[\w/]+\.py)`, `(?:\w+\.)?(\w+)`", page.read_text())

    missing = [
        (file, name)
        for file, name in [*named, *functions]
        if not (ROOT / file).exists() or name not in (ROOT / file).read_text()
    ]

    assert missing == []


def test_the_readme_lists_every_command():
    commands = {path.stem.replace("_", "-") for path in (ROOT / "workers/cli").glob("[a-z]*")}

    listed = set(re.findall(r"`petiole ([a-z-]+)", (ROOT / "README.md").read_text()))

    assert commands == listed
