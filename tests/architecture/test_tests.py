"""Tests look at what an outsider sees: what they need of the inside stands in tests/support/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
INSIDE = re.compile(r"petiole:(?!sha256)[a-z_]+|\.stores\.|\._client\b|unacked(?!_restore)|\\x06")


@pytest.mark.parametrize("folder", ["journeys", "faults"])
def test_stories_name_no_key_and_no_store(folder):
    named = [
        f"{path.relative_to(TESTS)}:{number}: {line.strip()}"
        for path in sorted((TESTS / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if INSIDE.search(line) and not line.startswith(("from ", "import "))
    ]

    assert named == []
