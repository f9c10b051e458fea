"""The Celery app of `celery -A workers worker`, `… beat` and every other Celery command, with all configured agents.

A worker consumes the queues of all agents and the queue `publish`; `-Q memory` limits it to the queue of one agent.
If no broker is configured, importing this module starts the embedded broker or connects to the running one.
"""

from __future__ import annotations

from celery.utils.imports import cwd_in_path

from petiole.tasks.bus import default_bus
from petiole.workers.observability.liveness import install_liveness
from petiole.workers.observability.logging import install_logging, quiet_celery
from petiole.workers.observability.tracing import install_tracing
from petiole.workers.process.discovery import configured_agents
from petiole.workers.process.embedded_broker import use_embedded_broker
from petiole.workers.settings import WorkerSettings
from petiole.workers.state.consolidation import ConsolidationTask

settings = WorkerSettings()
_ = default_bus.trust  # validates settings and policy now; Celery only logs an error raised in a signal handler
install_logging(default_bus.app, settings.log_format, default_bus.redactor)
default_bus.add_periodic_task(ConsolidationTask, settings.consolidation_interval_s)
with cwd_in_path():  # PETIOLE_AGENTS may name modules in the current folder
    default_bus.include(*configured_agents())
quiet_celery()  # after the agents' modules, which may set levels
install_liveness(default_bus)
install_tracing()  # after the agents' modules, which may set a tracer provider of their own
use_embedded_broker(default_bus)

app = default_bus.app
