"""The true path in one process, for tests: no server, no second process, nothing stood in for but Redis and the wire.

harness.py    EventTestHarness: publish, expect, send_and_wait
worker.py     a Celery worker in a thread, over a memory transport of its own
plugin.py     the pytest fixture `harness`
"""

from __future__ import annotations

from petiole.tasks.testing.harness import EventTestHarness

__all__ = ["EventTestHarness"]
