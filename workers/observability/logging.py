"""Logging: one line per fact, with the ids that lead from it to the event.

Everything logs through the standard library, with its facts in `extra`. Here structlog gives the lines of a Celery
process their form: readable, or one JSON object each with PETIOLE_LOG_FORMAT=json. Level and file are Celery's own
options (`-l`, `-f`).
"""

from __future__ import annotations

import logging
from typing import Any

import structlog
from celery import signals
from structlog.typing import Processor

from petiole.workers.settings import unknown_settings

log = logging.getLogger(__name__)


def formatter(log_format: str, *, colorize: bool) -> logging.Formatter:
    """Make the formatter of the configured form."""
    # Rich's tracebacks show all variables: with their secrets, and at seconds of a worker's time for each.
    plain = structlog.dev.plain_traceback
    last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=colorize, sort_keys=False, exception_formatter=plain)]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def install(log_format: str) -> None:
    """Give the lines of this process their form, once Celery has set up its loggers; then warn of unknown settings."""

    def give_form(logger: logging.Logger, colorize: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - Celery's signal
        for handler in logger.handlers:
            handler.setFormatter(formatter(log_format, colorize=bool(colorize)))

    def warn(**_: Any) -> None:
        for warning in unknown_settings():
            log.warning("setting.unknown", extra={"problem": warning})

    signals.after_setup_logger.connect(give_form, weak=False)
    signals.after_setup_task_logger.connect(give_form, weak=False)
    signals.after_setup_logger.connect(warn, weak=False)
