from __future__ import annotations

import logging
import sys

from petiole.workers.observability.logging import build_formatter


def _record() -> logging.LogRecord:
    password = "hunter" + "2"
    try:
        raise ValueError(len(password))  # noqa: TRY301 - an error with variables around it
    except ValueError:
        return logging.LogRecord("test", logging.ERROR, __file__, 1, "went wrong", None, sys.exc_info())


def test_a_traceback_in_the_log_tells_no_values_of_variables():
    for form in ("console", "json"):
        written = build_formatter(form, colorize=False).format(_record())

        assert "ValueError: 7" in written
        assert "hunter2" not in written


def test_an_error_of_any_text_and_size_is_logged_in_text_that_can_be_written():
    try:
        raise ValueError("b\udcff" + "x" * 1_000_000)  # noqa: TRY301 - an error with a traceback
    except ValueError:
        record = logging.LogRecord("test", logging.ERROR, __file__, 1, "went wrong", None, sys.exc_info())

    for form in ("console", "json"):
        written = build_formatter(form, colorize=False).format(record)

        assert "ValueError: b" in written
        assert len(written.encode()) < 30_000
