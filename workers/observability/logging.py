"""Logging: one line per fact, with the ids that lead from it to the event.

Everything logs through the standard library, with its facts in `extra`. Here structlog gives the lines of a Celery
process their form: readable, or one JSON object each with PETIOLE_LOG_FORMAT=json. Level and file are Celery's own
options (`-l`, `-f`).
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import structlog
from celery import signals
from pydantic_settings import BaseSettings, SettingsConfigDict
from structlog.typing import Processor


class LogSettings(BaseSettings):
    """PETIOLE_LOG_FORMAT: console or json."""

    model_config = SettingsConfigDict(env_prefix="PETIOLE_", frozen=True)

    log_format: Literal["console", "json"] = "console"


def formatter(settings: LogSettings, *, colorize: bool) -> logging.Formatter:
    """Make the formatter of the configured form."""
    # Rich's tracebacks show all variables: with their secrets, and at seconds of a worker's time for each.
    plain = structlog.dev.plain_traceback
    last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=colorize, sort_keys=False, exception_formatter=plain)]
    if settings.log_format == "json":
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


def give_form(logger: logging.Logger, colorize: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - Celery's signal
    """Let the handlers that Celery made write in our form."""
    for handler in logger.handlers:
        handler.setFormatter(formatter(LogSettings(), colorize=bool(colorize)))


def install() -> None:
    """Give the lines of this process their form, once Celery has set up its loggers. Raises for an unknown form."""
    LogSettings()
    signals.after_setup_logger.connect(give_form, weak=False)
    signals.after_setup_task_logger.connect(give_form, weak=False)
