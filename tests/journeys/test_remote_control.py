"""Celery's remote control ends a worker only if it names it."""

from __future__ import annotations

import pytest
from celery import Celery


@pytest.mark.parametrize("options", [{}, {"pattern": "*", "matcher": "glob"}], ids=["broadcast", "pattern"])
def test_a_shutdown_that_names_no_worker_ends_none_and_one_that_names_it_does(node, clean_broker_url, options):
    worker = node.worker("steady")
    app = Celery("client", broker=clean_broker_url)
    (name,) = (app.control.ping(timeout=20, limit=1) or [])[0]

    app.control.broadcast("shutdown", **options)
    answers = app.control.ping(timeout=20, limit=1)
    app.control.shutdown(destination=[name])

    assert answers == [{name: {"ok": "pong"}}]
    assert worker.wait(timeout=30) == 0
    assert "remote_control.refused" in node.logs()
