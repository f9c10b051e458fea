from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from petiole.tasks.celery import EventApp


@pytest.fixture
def app() -> EventApp:
    app = EventApp("eta", set_as_current=False)
    app.conf.update(broker_url="memory://")
    return app


@pytest.mark.parametrize(
    "options",
    [{"countdown": 3600}, {"eta": datetime.now(UTC) + timedelta(hours=1)}, {"eta": "2099-01-01T00:00:00+00:00"}],
    ids=["countdown", "eta", "eta as text"],
)
def test_a_plain_task_that_would_wait_in_a_workers_memory_is_warned_about(app, caplog, options):
    with caplog.at_level(logging.WARNING):
        app.send_task("anything", **options)

    assert "task.waits_in_a_worker" in caplog.text


@pytest.mark.parametrize("options", [{}, {"countdown": 5}, {"eta": datetime.now(UTC)}], ids=["now", "soon", "past"])
def test_a_plain_task_that_waits_a_moment_is_not(app, caplog, options):
    with caplog.at_level(logging.WARNING):
        app.send_task("anything", **options)

    assert "task.waits_in_a_worker" not in caplog.text
