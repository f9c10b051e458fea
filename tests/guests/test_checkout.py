"""From a checkout's root the folders are imported by their own names, and give the same objects as `petiole.…`."""

from __future__ import annotations

import pytest

from tests.support.processes import ROOT

SERVICE = """
from events import TextContent, TextMessageEvent
from tasks import publish
publish.delay(TextMessageEvent(stream_id="s", content=TextContent(text="a")))
"""


@pytest.fixture
def checkout(project, clean_broker_url):
    """Give the root of a checkout, in which the commands of the README are typed."""
    for name in ("petiole", "events", "tasks", "workers", "celeryconfig.py"):
        (project.home / name).symlink_to(ROOT / name)
    project.write(
        agents="""
            import os
            import redis
            from petiole import Agent

            note = redis.Redis.from_url(os.environ["SHOP_BROKER"])
            clerk = Agent("clerk")

            @clerk.on("input.*", "system.tick")
            def hear(event):
                note.rpush("seen", event.event_type)
        """,
        service=SERVICE,
    )
    project.environment.update(
        PETIOLE_AGENTS="agents", PETIOLE_BROKER_URL=clean_broker_url, PETIOLE_TICK_INTERVAL_S="0.5"
    )
    return project


def test_worker_service_and_beat_are_started_by_the_names_of_the_folders(checkout, seen, eventually):
    checkout.worker_of("workers")
    checkout.start("celery", "-A", "workers", "beat")

    checkout.start("service")

    wanted = {"input.message.received", "system.tick"}
    eventually(lambda: wanted <= set(seen()), 30, lambda: (seen(), checkout.logs()[-3000:]))


def test_the_short_and_the_long_names_give_the_same_objects(checkout):
    told = checkout.run(
        "import events, tasks, workers, petiole, petiole.events, petiole.tasks, petiole.workers\n"
        "print(tasks.publish is petiole.publish, tasks.EventBus is petiole.tasks.EventBus)\n"
        "print(events.Event is petiole.Event, workers.app is petiole.workers.app)"
    )

    assert told.split() == ["True"] * 4


def test_a_module_inside_a_folder_has_its_long_name_only(checkout):
    with pytest.raises(AssertionError, match=r"No module named 'tasks.agents'"):
        checkout.run("from tasks.agents import Agent")
