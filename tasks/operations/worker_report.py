"""Worker report: what a worker answers to the remote-control command `petiole_report`, for `petiole doctor`.

It has the versions of the packages that decide how events travel, the settings that all processes should share, and by
how much the worker's clock differs from the state store's. Secrets and paths of the host are left out.
"""

from __future__ import annotations

import platform
import time
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from celery.worker.control import inspect_command

from petiole.tasks.runtime import bus_of

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

REPORT_COMMAND = "petiole_report"

_PACKAGES = ("petiole", "celery", "kombu", "redis", "pydantic")
_OF_ONE_HOST = frozenset({"home"})


@inspect_command(name=REPORT_COMMAND)
def report_worker(state: Any) -> dict[str, object]:
    """Answer the remote-control command."""
    return build_report(bus_of(state.app))


def build_report(bus: BusRuntime) -> dict[str, object]:
    """Build the report of this process."""
    shared = {name: field for name, field in type(bus.settings).model_fields.items() if field.repr}
    return {
        "versions": package_versions(),
        "settings": bus.settings.model_dump(mode="json", include=shared.keys() - _OF_ONE_HOST),
        "clock_ahead_s": time.time() - bus.now().timestamp(),
    }


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide how events travel."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}
