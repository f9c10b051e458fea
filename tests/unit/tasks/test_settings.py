from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from petiole.tasks.settings import Settings


@pytest.mark.parametrize(
    ("said", "meant"), [("90", timedelta(seconds=90)), ("0.5", timedelta(seconds=0.5)), ("PT5M", timedelta(minutes=5))]
)
def test_a_duration_is_seconds_or_iso_8601(monkeypatch, said, meant):
    monkeypatch.setenv("PETIOLE_BLOCK_TIMEOUT", said)

    assert Settings().block_timeout == meant


@pytest.mark.parametrize("said", ["-1", "0", "soon", "nan"])
def test_what_is_no_duration_is_refused_by_name(monkeypatch, said):
    monkeypatch.setenv("PETIOLE_BLOCK_TIMEOUT", said)

    with pytest.raises(ValidationError, match="block_timeout"):
        Settings()
