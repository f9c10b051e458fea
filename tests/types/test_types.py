"""What a user's type checker says of a user's programs, with Petiole installed beside them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = (str(HERE / "correct.py"), str(HERE / "mistakes.py"))

Finding = tuple[str, int, str]
"""The file, the line and the text of an error."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a Python with Petiole among its packages: checkers do not follow the hook of an editable installation."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (packages / "petiole").symlink_to(ROOT / "petiole")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin" / "python"


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def findings(request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """Check both programs in the checker's strict mode, without our settings."""
    check = {"mypy": _mypy, "pyright": _pyright}[request.param]
    return check(python, tmp_path_factory.mktemp("checked"))


@pytest.mark.timeout(300)
def test_a_correct_program_is_clean(findings):
    assert [finding for finding in findings if finding[0] == "correct.py"] == []


@pytest.mark.timeout(300)
def test_each_mistake_is_found_and_nothing_else(findings):
    lines = (HERE / "mistakes.py").read_text().splitlines()
    mistakes = {number for number, line in enumerate(lines, 1) if line.endswith("# mistake")}

    assert {line for file, line, _ in findings if file == "mistakes.py"} == mistakes


def _mypy(python: Path, folder: Path) -> list[Finding]:
    options = ["--strict", "--config-file=", f"--cache-dir={folder}", f"--python-executable={python}"]
    output = _run(sys.executable, "-m", "mypy", *options, *PROGRAMS, folder=folder)
    found = [re.match(r"(.+?):(\d+): error: (.*)", line) for line in output.splitlines()]
    return [(Path(match[1]).name, int(match[2]), match[3]) for match in found if match]


def _pyright(python: Path, folder: Path) -> list[Finding]:
    # In this mode, basedpyright has pyright's rules and none of its own.
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    options = ["--outputjson", f"--pythonpath={python}", f"--project={folder}"]
    report = json.loads(_run(sys.executable, "-m", "basedpyright", *options, *PROGRAMS, folder=folder))
    found = [finding for finding in report["generalDiagnostics"] if finding["severity"] == "error"]
    return [(Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"]) for each in found]


def _run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout
