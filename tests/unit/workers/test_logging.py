from __future__ import annotations

import logging
import sys

from petiole.workers.observability.logging import formatter


def _record() -> logging.LogRecord:
    password = "hunter" + "2"
    try:
        raise ValueError(len(password))  # noqa: TRY301 - an error with variables around it
    except ValueError:
        return logging.LogRecord("test", logging.ERROR, __file__, 1, "went wrong", None, sys.exc_info())


def test_a_traceback_in_the_log_tells_no_values_of_variables():
    for form in ("console", "json"):
        written = formatter(form, colorize=False).format(_record())

        assert "ValueError: 7" in written
        assert "hunter2" not in written
