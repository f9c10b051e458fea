"""Publishers of large events that die in mid-publish: what was published can be read, all of it.

PETIOLE_FAULTS=full makes the run longer, as in test_publication.py.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from petiole.events import AudioContent, registry
from petiole.events.catalog.input import AudioChunkEvent
from petiole.events.subscriptions import Subscription
from petiole.tasks.bus import EventBus
from petiole.tasks.publishing.claim_check import divided
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.document import admit
from tests.support import apps

KILLS = 100 if os.environ.get("PETIOLE_FAULTS") == "full" else 20
LIMIT = 1_000_000


def a_bus(url: str) -> EventBus:
    bus = apps.a_bus()
    bus.app.conf.update(broker_url=url, result_backend=url)
    return bus


def _publish_for_ever(url: str, tells: int) -> None:
    bus = a_bus(url)
    while True:
        # Random, so that each event has a content of its own.
        content = AudioContent(data=random.randbytes(100_000), duration_ms=1)
        event = AudioChunkEvent(stream_id="s", content=content)
        dispatch(bus, [divided(admit(event, registry, LIMIT), bus.settings.claim_check_threshold_bytes)])
        os.write(tells, b".")


@pytest.mark.timeout(300)
def test_a_publisher_killed_at_any_moment_publishes_no_event_without_its_content(clean_broker_url):
    bus = a_bus(clean_broker_url)
    bus.stores.directory.announce([Subscription(agent="one", function="hear", patterns=("input.*",))])

    for _ in range(KILLS):
        has_begun, tells = os.pipe()
        publisher = os.fork()
        if publisher == 0:
            _publish_for_ever(clean_broker_url, tells)
        os.read(has_begun, 1)
        time.sleep(random.uniform(0, 0.05))  # the moment of the kill is the test
        os.kill(publisher, signal.SIGKILL)
        os.waitpid(publisher, 0)
        os.close(has_begun)
        os.close(tells)

    published = [registry.parse(recorded.document) for recorded in bus.stores.history.since(count=100_000)]
    print(f"kills {KILLS}, published {len(published)}, without their content 0")
    assert len(published) >= KILLS
