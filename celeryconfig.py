"""Celery settings of this checkout, applied over Petiole's defaults (tasks/celery.py).

Any setting of Celery may be added. A value that would break a guarantee is refused when a worker starts; the error
names its line. Variables that begin with PETIOLE_ are read from the environment: docs/settings.md.
"""

from __future__ import annotations

timezone = "UTC"
worker_prefetch_multiplier = 4
