"""Celery settings of this checkout, laid over Petiole's defaults (tasks/celery.py). Any setting of Celery may stand
here.

A value that would break a guarantee is refused when a worker starts, with its line. PETIOLE_BROKER_URL and the other
PETIOLE_ variables are read from the environment: docs/settings.md.
"""

from __future__ import annotations

timezone = "UTC"
worker_prefetch_multiplier = 4
