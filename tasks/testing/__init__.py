"""Testing: run agents in one process, without servers. Only Redis and the broker are replaced.

harness.py    EventTestHarness: publish, expect, send_event_and_wait, advance
faults.py     failures, crashes, duplicates, delays and lost acknowledgements
plugin.py     the pytest fixture `harness`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.lazy import lazy_names

if TYPE_CHECKING:
    from petiole.tasks.testing.harness import EventTestHarness

__all__ = ["EventTestHarness"]

__getattr__, __dir__ = lazy_names(__name__, {"petiole.tasks.testing.harness": "EventTestHarness"})
