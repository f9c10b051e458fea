"""The official client of AG-UI, which is JavaScript. `.ci/run` installs it in build/ag-ui."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT

FOLDER = ROOT / "build" / "ag-ui"
_SCRIPT = Path(__file__).with_suffix(".cjs")


def skip_without_client() -> None:
    """Skip a test if the client is missing, or fail it under CI=true."""
    if shutil.which("node") and (FOLDER / "node_modules" / "@ag-ui" / "client").is_dir():
        return
    missing = "the client is missing: npm install --prefix build/ag-ui @ag-ui/client@1.0.0, as .ci/run does"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def run_client(*arguments: str, given: object) -> dict[str, Any]:
    """Let the client `run` a conversation at a URL, or `verify` recorded events; gives what it prints."""
    command = ["node", str(_SCRIPT), str(FOLDER), *arguments]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
