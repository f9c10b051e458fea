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
from tests.support.apps import a_bus, publish_once

KILLS = 100 if os.environ.get("PETIOLE_FAULTS") == "full" else 20


def _publish_for_ever(url: str, tells: int) -> None:
    bus = a_bus(url)
    while True:
        # Random, so that each event has a content of its own.
        content = AudioContent(data=random.randbytes(100_000), duration_ms=1)
        event = AudioChunkEvent(stream_id="s", content=content)
        publish_once(bus, event)
        os.write(tells, b".")


@pytest.mark.timeout(300)
def test_a_publisher_killed_at_any_moment_publishes_no_event_without_its_content(clean_broker_url, inside):
    a_bus(clean_broker_url, Subscription(agent="one", function="hear", patterns=("input.*",)))

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

    published = [registry.parse(event) for event in inside.history()]
    print(f"kills {KILLS}, published {len(published)}, without their content 0")
    assert len(published) >= KILLS
