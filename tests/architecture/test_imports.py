"""The import contracts in pyproject.toml are kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROVIDER_FOLDERS = ("channels", "llm", "retrieval", "streams", "synthesis", "tools", "transcription")


def test_every_import_contract_is_kept():
    lint_imports = Path(sys.executable).with_name("lint-imports")

    report = subprocess.run(
        [lint_imports, "--no-cache", "--no-logo"],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert report.returncode == 0, report.stdout + report.stderr
    assert " 0 broken" in report.stdout


def test_the_contracts_on_providers_cover_every_folder_of_providers():
    existing = {f"petiole.workers.{name}" for name in PROVIDER_FOLDERS if (ROOT / "workers" / name).is_dir()}

    assert existing == sources_of("providers know of no agent")
    assert existing == sources_of("providers know of no Celery and no Redis")


def sources_of(contract_name: str) -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return {
        module for contract in contracts if contract["name"] == contract_name for module in contract["source_modules"]
    }
