"""The app of `celery -A workers worker`, `… beat` and every other Celery command: all agents included.

A worker consumes the queues of all included agents and the queue `publish`; `-Q memory` consumes one of them. Where no
broker is configured, importing this module starts the embedded one, or finds it running.
"""

from __future__ import annotations

from celery.utils.imports import cwd_in_path

from petiole.tasks.bus import default_bus
from petiole.workers.observability.liveness import has_pulse
from petiole.workers.observability.logging import install as install_logging
from petiole.workers.process.discovery import configured_agents
from petiole.workers.process.embedded_broker import use_embedded_broker
from petiole.workers.settings import WorkerSettings
from petiole.workers.state.consolidation import ConsolidationTask

settings = WorkerSettings()
_ = default_bus.settings  # a bad value is refused here; what a handler of Celery's signals raises is only logged
install_logging(settings.log_format)
default_bus.add_periodic_task(ConsolidationTask, settings.consolidation_interval_s)
with cwd_in_path():  # modules that PETIOLE_AGENTS names may lie where the command is typed
    default_bus.include(*configured_agents())
has_pulse(default_bus)
use_embedded_broker(default_bus)

app = default_bus.app
