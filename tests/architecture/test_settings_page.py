from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_settings_is_what_the_models_say():
    page = subprocess.run(
        [sys.executable, ROOT / "docs" / "settings.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert page.stdout == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "run `make settings`"
    assert "PydanticUndefined" not in page.stdout
