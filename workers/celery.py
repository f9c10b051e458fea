"""The app of `celery -A workers worker`, `… beat` and every other Celery command: all agents loaded.

A worker consumes the queues of all loaded agents and the queue `publish`; `-Q memory` consumes one of them. Where no
broker is configured, importing this module starts the embedded one, or finds it running.
"""

from __future__ import annotations

from petiole.tasks import periodic
from petiole.tasks.broker.topology import PUBLISH_QUEUE, declaration, lanes
from petiole.tasks.celery import app
from petiole.tasks.consuming.announcement import announces
from petiole.tasks.consuming.maintenance import ROUNDS, add_rounds
from petiole.tasks.delivery import register
from petiole.tasks.sessions import expiry as session_sweep
from petiole.tasks.settlement.deduplication import Admissions
from petiole.workers.observability.liveness import has_pulse
from petiole.workers.observability.logging import install as install_logging
from petiole.workers.process.discovery import configured_agents
from petiole.workers.process.embedded_broker import use_embedded_broker

__all__ = ["app", "periodic", "session_sweep"]

install_logging()
use_embedded_broker(app)

agents = configured_agents()
for agent in agents:
    register(app, agent)
app.conf.task_queues = [
    declaration(name, app.driver)
    for queue in (PUBLISH_QUEUE, *(agent.name for agent in agents))
    for name in lanes(queue, app.driver)
]
announces(app, agents)
add_rounds(app, ROUNDS)
app.steps["consumer"].add(Admissions)
has_pulse(app)
