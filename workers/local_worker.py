"""The Celery app of workers that a command starts, such as `petiole up`: without Celery's lines for each task.

Celery logs every task twice at INFO, and a delivery whose task is logged takes Celery's slower way
(tasks/consuming/direct.py). A level that the agents' modules set for these loggers is kept.
"""

from __future__ import annotations

import logging

from petiole.tasks.consuming.direct import TASK_LOGGERS
from petiole.workers.celery import app

__all__ = ["app"]

for _logger in TASK_LOGGERS:
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.WARNING)
