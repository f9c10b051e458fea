"""An existing Celery project takes in an event bus: its own tasks, queues and settings stay as they are."""

from __future__ import annotations

import json

import pytest

SHOP = """
    import os
    import redis
    from celery import Celery
    from petiole.tasks import Agent, EventBus

    note = redis.Redis.from_url(os.environ["SHOP_BROKER"])
    OWN = {
        "broker_url": os.environ["SHOP_BROKER"],
        "result_backend": os.environ["SHOP_BROKER"],
        "task_serializer": "pickle",
        "accept_content": ["json", "pickle"],
        "timezone": "Europe/Berlin",
        "task_default_queue": "shop",
        "task_routes": {"shop.invoice": {"queue": "invoices"}},
        "task_acks_late": False,
        "task_track_started": True,
        "task_acks_on_failure_or_timeout": False,
        "task_retry_on_worker_lost": True,
        "task_ignore_result": False,
        "worker_prefetch_multiplier": 7,
        "broker_transport_options": {"visibility_timeout": 77},
    }

    app = Celery("shop")
    app.conf.update(OWN)
    bus = EventBus(app)
    clerk = Agent("clerk")

    @app.task
    def pack(order):
        note.rpush("seen", f"pack {order}")
        return order

    @app.task(name="shop.invoice")
    def invoice(order):
        note.rpush("seen", f"invoice {order}")

    @clerk.on("input.*")
    def hear(event):
        note.rpush("seen", f"hear {event.content.text}")

    bus.include(clerk)
"""

SEND = """
from petiole.events import TextContent, TextMessageEvent
from shop import app, bus, pack, invoice

def event(text):
    return TextMessageEvent(stream_id="s", content=TextContent(text=text))

"""


@pytest.fixture
def shop(project):
    project.write(shop=SHOP)
    return project


@pytest.mark.parametrize("pool", [("-P", "solo"), ("-c", "2")], ids=["solo", "prefork"])
def test_one_worker_runs_the_projects_tasks_and_handles_events(shop, seen, eventually, pool):
    shop.worker_of("shop", "-Q", "shop,invoices,publish,clerk", *pool)

    told = shop.run(
        SEND + "result = app.send_task('shop.pack', [1]); invoice.delay(2)\n"
        "bus.publish(event('a')); bus.publish.delay(event('b')); print(result.get(timeout=20))"
    )

    eventually(lambda: seen() == ["hear a", "hear b", "invoice 2", "pack 1"], 20, lambda: (seen(), shop.logs()[-3000:]))
    assert told.split() == ["1"]


def test_without_a_selection_a_worker_consumes_the_projects_queues_and_the_agents(shop, seen, eventually):
    shop.worker_of("shop")

    shop.run(SEND + "pack.delay(1); bus.publish.delay(event('a'))")

    eventually(lambda: seen() == ["hear a", "pack 1"], 20, lambda: (seen(), shop.logs()[-3000:]))


def test_a_worker_of_the_projects_queue_takes_no_events_and_one_of_an_agent_takes_nothing_else(shop, seen, eventually):
    # The first announces the agent, and ends.
    shop.worker_of("shop", "-Q", "clerk", "-n", "a@%h").kill()
    shop.worker_of("shop", "-Q", "invoices", "-n", "b@%h")
    shop.run(SEND + "bus.publish(event('a')); pack.delay(1); invoice.delay(2)")
    eventually(lambda: seen() == ["invoice 2"], 20, seen)

    shop.worker_of("shop", "-Q", "clerk", "-n", "c@%h")

    eventually(lambda: seen() == ["hear a", "invoice 2"], 20, lambda: (seen(), shop.logs()[-3000:]))


def test_no_value_that_the_project_has_set_changes(shop):
    told = shop.run(
        "import json; import shop; shop.bus.publish\n"
        "print(json.dumps([shop.OWN, {name: shop.app.conf[name] for name in shop.OWN}, shop.app.main]))"
    )

    wanted, found, name = json.loads(told)
    assert (found, name) == (wanted, "shop")


def test_a_projects_tasks_keep_their_attributes_and_events_keep_theirs(shop):
    names = ("acks_late", "acks_on_failure", "acks_on_timeout", "retry_on_worker_lost", "serializer", "ignore_result")

    told = shop.run(
        f"import json; from shop import app\nnames = {names!r}\n"
        "tasks = [app.tasks[name] for name in ('shop.pack', 'clerk.hear')]\n"
        "print(json.dumps([[getattr(task, name) for name in names] for task in tasks]))"
    )

    assert json.loads(told) == [
        [False, False, False, True, "pickle", False],
        [True, True, True, False, "json", True],
    ]


def test_one_beat_sends_the_projects_entries_and_the_ticks(shop, seen, eventually):
    shop.write(
        scheduled="""
            from petiole.events import Event
            from shop import app, bus, clerk, note, pack

            # After the app's settings were read, as many a project does.
            app.conf.timezone
            app.conf.beat_schedule = {"hourly": {"task": "shop.pack", "schedule": 0.5, "args": [9]}}

            @clerk.on("system.*")
            def tick(event: Event) -> None:
                note.rpush("seen", event.event_type)
        """
    )
    shop.environment["PETIOLE_TICK_INTERVAL_S"] = "0.5"
    shop.worker_of("scheduled:app")

    shop.start("celery", "-A", "scheduled:app", "beat", "-s", str(shop.home / "schedule"))

    eventually(lambda: {"pack 9", "system.tick"} <= set(seen()), 30, lambda: (seen(), shop.logs()[-3000:]))


def test_a_django_project_with_a_namespace_takes_in_a_bus(project, seen, eventually):
    project.write(
        shopsite__settings="""
            import os
            SECRET_KEY = "x"
            USE_TZ = True
            TIME_ZONE = "Europe/Berlin"
            INSTALLED_APPS = ["orders"]
            CELERY_BROKER_URL = os.environ["SHOP_BROKER"]
            CELERY_TASK_SERIALIZER = "json"
            CELERY_TASK_ROUTES = {"orders.tasks.pack": {"queue": "packing"}}
            CELERY_BEAT_SCHEDULE = {"hourly": {"task": "orders.tasks.pack", "schedule": 3600.0, "args": [9]}}
            CELERY_WORKER_PREFETCH_MULTIPLIER = 7
        """,
        shopsite__celery="""
            import os
            from celery import Celery
            from petiole.tasks import EventBus

            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shopsite.settings")
            app = Celery("shopsite")
            app.config_from_object("django.conf:settings", namespace="CELERY")
            bus = EventBus(app)
            app.autodiscover_tasks()
        """,
        shopsite____init__="from .celery import app as celery_app",
        orders____init__="",
        orders__tasks="""
            import os
            import redis
            from celery import shared_task
            from petiole.tasks import Agent
            from shopsite.celery import bus

            note = redis.Redis.from_url(os.environ["SHOP_BROKER"])
            clerk = Agent("clerk")

            @shared_task
            def pack(order):
                note.rpush("seen", f"pack {order}")

            @clerk.on("input.*")
            def hear(event):
                note.rpush("seen", f"hear {event.content.text}")

            bus.include(clerk)
        """,
    )
    project.worker_of("shopsite", "-Q", "celery,packing,publish,clerk")

    told = project.run(
        "import django, json, os\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'shopsite.settings'\n"
        "django.setup()\n"
        "from shopsite.celery import app, bus\n"
        "from orders.tasks import pack\n"
        "from petiole.events import TextContent, TextMessageEvent\n"
        "pack.delay(1)\n"
        "bus.publish.delay(TextMessageEvent(stream_id='s', content=TextContent(text='a')))\n"
        "print(json.dumps([app.conf.worker_prefetch_multiplier, app.conf.timezone, sorted(app.conf.beat_schedule)]))"
    )

    eventually(lambda: seen() == ["hear a", "pack 1"], 20, lambda: (seen(), project.logs()[-3000:]))
    prefetch, timezone, entries = json.loads(told)
    assert (prefetch, timezone) == (7, "Europe/Berlin")
    assert {"hourly", "petiole.tick"} <= set(entries)
