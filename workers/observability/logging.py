"""Logging: the format of the log lines of a Celery process.

All code logs through the standard library and passes ids and values in `extra`. structlog formats the records as
readable lines, or as one JSON object per line with PETIOLE_LOG_FORMAT=json. Celery's options set level and file (`-l`,
`-f`).
"""

from __future__ import annotations

import logging
from typing import Any, TextIO

import structlog
from celery import signals
from structlog.typing import EventDict, ExcInfo, Processor

from petiole.events.texts import traceback_text
from petiole.tasks.transport.address import mask_secrets
from petiole.workers.observability.printable import printable_lines
from petiole.workers.settings import unknown_settings

log = logging.getLogger(__name__)


def build_formatter(log_format: str, *, colorize: bool) -> logging.Formatter:
    """Build the formatter for `console` or `json` lines."""
    # Rich's tracebacks show all variables, secrets included, and each takes seconds of a worker's time.
    renderers: list[Processor] = [
        structlog.dev.ConsoleRenderer(colors=colorize, sort_keys=False, exception_formatter=_write_traceback)
    ]
    if log_format == "json":
        renderers = [structlog.processors.ExceptionRenderer(_format_traceback), structlog.processors.JSONRenderer()]
    return _MaskingFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            _replace_unprintable,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _replace_unprintable(_: object, __: str, fields: EventDict) -> EventDict:
    """Keep ids and texts of events from controlling the terminal that shows the log."""
    return {name: printable_lines(value) if isinstance(value, str) else value for name, value in fields.items()}


def _format_traceback(exc_info: ExcInfo) -> str:
    return traceback_text(exc_info[1]).rstrip()


def _write_traceback(console: TextIO, exc_info: ExcInfo) -> None:
    console.write(f"\n{printable_lines(_format_traceback(exc_info))}")


class _MaskingFormatter(structlog.stdlib.ProcessorFormatter):
    """Writes *** instead of the passwords of addresses, which errors of other libraries may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(super().format(record))


def install_logging(log_format: str) -> None:
    """Set the log format once Celery has set up its loggers, then warn of unknown settings."""

    def set_format(logger: logging.Logger, colorize: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - Celery's signal
        for handler in logger.handlers:
            handler.setFormatter(build_formatter(log_format, colorize=bool(colorize)))

    def warn_of_unknown_settings(**_: Any) -> None:
        for warning in unknown_settings():
            log.warning("setting.unknown", extra={"problem": warning})

    signals.after_setup_logger.connect(set_format, weak=False)
    signals.after_setup_task_logger.connect(set_format, weak=False)
    signals.after_setup_logger.connect(warn_of_unknown_settings, weak=False)
