"""The app of `celery -A workers worker`, `… beat` and every other Celery command: all agents loaded.

A worker consumes the queues of all loaded agents and the queue `publish`; `-Q memory` consumes one of them. Where no
broker is configured, importing this module starts the embedded one, or finds it running.
"""

from __future__ import annotations

from tasks import periodic
from tasks.admissions import Admissions
from tasks.celery import app
from tasks.delivery import register
from tasks.queues import PUBLISH_QUEUE, declaration, lanes
from tasks.recovery import ROUNDS, add_rounds
from tasks.sessions import sweep as session_sweep
from workers.broker import use_embedded_broker
from workers.lifecycle import announces
from workers.loading import configured_agents
from workers.observability.logging import install as install_logging
from workers.observability.pulse import has_pulse

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
