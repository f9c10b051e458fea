"""Logging: the format of the log lines of workers, beat and commands.

All code logs through the standard library and passes ids and values in `extra`. structlog formats the records as
readable lines, or as one JSON object per line with PETIOLE_LOG_FORMAT=json. Celery's options set level and file (`-l`,
`-f`). A record that is written while a delivery is handled has its fields, whoever writes it. The hook of
PETIOLE_REDACT gets every text of a record.

Handlers, formats and levels that the process has already are kept: its modules, `worker_log_format` or a receiver of
Celery's `setup_logging` set them. `build_formatter` and `add_delivery_fields` are for such configurations, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO

import structlog
from celery import Celery, signals
from celery.utils.log import ColorFormatter
from structlog.typing import EventDict, ExcInfo, Processor

from petiole.events.redaction import DEFAULT_HOOK, Redactor
from petiole.events.texts import traceback_text
from petiole.tasks.consuming.direct import TASK_LOGGERS
from petiole.tasks.instrumentation.delivery_fields import read_delivery_fields
from petiole.tasks.transport.address import mask_secrets
from petiole.workers.observability.printable import printable_lines
from petiole.workers.settings import unknown_settings

log = logging.getLogger(__name__)


def build_formatter(log_format: str, *, colorize: bool = False, redactor: Redactor | None = None) -> logging.Formatter:
    """Build the formatter for `console` or `json` lines; by default, the built-in hook takes out secrets."""
    applied = redactor or Redactor(DEFAULT_HOOK)

    def format_traceback(exc_info: ExcInfo) -> str:
        return applied.text(traceback_text(exc_info[1]).rstrip(), "exception")

    def write_traceback(console: TextIO, exc_info: ExcInfo) -> None:
        console.write(f"\n{printable_lines(format_traceback(exc_info))}")

    # Rich's tracebacks show all variables, secrets included, and each takes seconds of a worker's time.
    renderers: list[Processor] = [
        structlog.dev.ConsoleRenderer(colors=colorize, sort_keys=False, exception_formatter=write_traceback)
    ]
    if log_format == "json":
        renderers = [structlog.processors.ExceptionRenderer(format_traceback), structlog.processors.JSONRenderer()]
    return _MaskingFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            _shorten_celerys_data,
            add_delivery_fields,
            _build_sanitizer(applied),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


def add_delivery_fields(_: object, __: str, fields: EventDict) -> EventDict:
    """Add the fields of the delivery that is being handled. A processor for any configuration of structlog."""
    return {**read_delivery_fields(), **fields}


def _shorten_celerys_data(_: object, __: str, fields: EventDict) -> EventDict:
    """Keep the task's name and id of Celery's record; its other values are in the message and the traceback."""
    data = fields.get("data")
    if isinstance(data, dict) and str(fields.get("logger")).startswith("celery."):
        del fields["data"]
        fields.update({field: data[name] for field, name in (("task", "name"), ("task_id", "id")) if name in data})
    return fields


def _build_sanitizer(redactor: Redactor) -> Callable[[object, str, EventDict], EventDict]:
    def sanitize(_: object, __: str, fields: EventDict) -> EventDict:
        """Take out secrets, and keep ids and texts of events from controlling the terminal that shows the log."""
        return {
            name: value if name == "exc_info" else _to_plain(redactor.value(value, name))
            for name, value in fields.items()
        }

    return sanitize


def _to_plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return printable_lines(value) if isinstance(value, str) else value


class _MaskingFormatter(structlog.stdlib.ProcessorFormatter):
    """Writes *** instead of the passwords of addresses, which errors of other libraries may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(super().format(record))


def install_logging(app: Celery, log_format: str, redactor: Redactor) -> None:
    """Set the format of the handlers that Celery adds to its loggers, then warn of unknown settings."""

    def set_format(logger: logging.Logger, colorize: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - Celery's signal
        formats = ("worker_log_format", "worker_task_log_format")
        if any(app.conf.value_set_for(name) for name in formats):
            return
        for handler in logger.handlers:
            if isinstance(handler.formatter, ColorFormatter):  # Celery's own; others are the process's
                handler.setFormatter(build_formatter(log_format, colorize=bool(colorize), redactor=redactor))

    def warn_of_unknown_settings(**_: Any) -> None:
        for warning in unknown_settings():
            log.warning("setting.unknown", extra={"problem": warning})

    signals.after_setup_logger.connect(set_format, weak=False)
    signals.after_setup_task_logger.connect(set_format, weak=False)
    signals.after_setup_logger.connect(warn_of_unknown_settings, weak=False)


def quiet_celery() -> None:
    """Leave out what Celery logs at INFO about each task. A level that the process has set is kept.

    A delivery whose task is logged takes Celery's slower way, too.
    """
    for logger in TASK_LOGGERS:
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
    logging.getLogger("celery.beat").addFilter(_is_no_due_entry)


def _is_no_due_entry(record: logging.LogRecord) -> bool:
    return not (record.levelno == logging.INFO and str(record.msg).startswith("Scheduler: Sending due task"))
