"""Settings that are a project's own never cost an event: they are kept, or a worker refuses to start with them."""

from __future__ import annotations

import pytest

AGENT = """
    import os, time
    import redis
    from petiole.tasks import Agent

    note = redis.Redis.from_url(os.environ["SHOP_BROKER"])
    clerk = Agent("clerk")

    @clerk.on("input.*")
    def hear(event):
        if note.rpush("begun", event.content.text) == 1:
            time.sleep(600)
        note.rpush("seen", f"hear {event.content.text}")
"""

PUBLISH = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
publish.delay(TextMessageEvent(stream_id="s", content=TextContent(text="a")))
"""


@pytest.fixture
def defaults(project, clean_broker_url):
    """Give a project that has no app of its own: its workers are those of `celery -A petiole.workers`."""
    project.write(agents=AGENT)
    project.environment.update(PETIOLE_AGENTS="agents", PETIOLE_BROKER_URL=clean_broker_url)
    return project


def test_an_event_survives_its_worker_beside_a_celeryconfig_of_the_projects_own(defaults, seen, eventually):
    defaults.write(celeryconfig='timezone = "UTC"')
    first = defaults.worker_of("petiole.workers")
    defaults.run(PUBLISH)
    eventually(lambda: int(defaults.run(BEGUN)) == 1, 20)
    first.kill()

    defaults.worker_of("petiole.workers")

    eventually(lambda: seen() == ["hear a"], 30, lambda: (seen(), defaults.logs()[-3000:]))


BEGUN = "import os, redis; print(redis.Redis.from_url(os.environ['SHOP_BROKER']).llen('begun'))"

CONFLICTS = {
    "worker_consumer": '"celery.worker.consumer:Consumer"',
    "accept_content": '["pickle"]',
    "task_annotations": '{"*": {"acks_late": False}}',
    "task_protocol": "1",
}


@pytest.mark.parametrize(("setting", "value"), CONFLICTS.items())
def test_a_worker_refuses_a_celeryconfig_that_could_lose_events_and_names_the_line(defaults, setting, value):
    defaults.write(celeryconfig=f'timezone = "UTC"\n# {setting} = 1\n{setting} = {value}')

    code, printed = defaults.refused_worker("petiole.workers")

    assert code == 1
    assert "Traceback" not in printed
    *_, refusal, line = printed.strip().splitlines()
    assert refusal == "Error: no worker starts, because events could be lost:"
    assert line.startswith(f"  {defaults.home}/celeryconfig.py:3: {setting} ")


SHOP = """
    import os
    from celery import Celery
    from petiole.tasks import Agent, EventBus

    def act(): ...

    app = Celery("shop", broker=os.environ["SHOP_BROKER"])
    {configure}
    bus = EventBus(app)
    clerk = Agent("clerk")

    @clerk.on("input.*")
    def hear(event): ...

    bus.include(clerk)
    {afterwards}
"""


@pytest.mark.parametrize(
    ("configure", "afterwards", "place"),
    [
        ("app.config_from_object('shopconfig')", "", "shopconfig.py:2: task_annotations sets acks_late=False"),
        ("app.config_from_object('shopconfig:Old')", "", "shopconfig.py:4: accept_content is ['pickle']"),
        ("app.conf.update(task_protocol=1)", "", "shop.py:9: task_protocol is 1"),
        ("", "app.conf.worker_consumer = 'celery.worker.consumer:Consumer'", "shop.py:17: worker_consumer is"),
        (
            "app.conf.task_queues = [__import__('kombu').Queue('clerk')]",
            "",
            "shop.py:9: task_queues has a queue 'clerk'",
        ),
        ("app.conf.task_default_queue = 'publish'", "", "shop.py:9: task_default_queue has a queue 'publish'"),
        (
            "app.task(name='own')(act); app.conf.task_routes = {'own': 'clerk'}",
            "",
            "shop.py:9: task_routes has a queue",
        ),
        ("app.task(name='petiole.tick')(act)", "", "the app has a task 'petiole.tick' of its own"),
        ("app.task(name='clerk.hear')(act); app.finalize()", "", "the app has a task 'clerk.hear' of its own"),
    ],
)
def test_a_worker_of_a_projects_app_refuses_what_could_lose_events(project, configure, afterwards, place):
    project.write(
        shop=SHOP.format(configure=configure, afterwards=afterwards),
        shopconfig='task_annotations = None\ntask_annotations = {"*": {"acks_late": False}}\n'
        'class Old:\n    CELERY_ACCEPT_CONTENT = ["pickle"]',
    )

    code, printed = project.refused_worker("shop")

    assert (code, "Traceback" in printed) == (1, False)
    assert place in printed.strip().splitlines()[-1], printed[-2000:]


def test_the_broker_that_a_celeryconfig_names_is_used_and_no_other_is_started(
    defaults, clean_broker_url, seen, eventually
):
    del defaults.environment["PETIOLE_BROKER_URL"]
    defaults.write(celeryconfig='import os\nbroker_url = os.environ["SHOP_BROKER"]')

    told = defaults.run(
        "from petiole.workers import app\nprint(app.connection_for_write().as_uri(include_password=True))"
    )

    assert told.strip() == f"petiole+{clean_broker_url}"
    assert not (defaults.home / ".petiole").exists()


def test_the_broker_in_our_variable_wins_over_celerys_and_a_celeryconfig(defaults, clean_broker_url):
    defaults.environment["CELERY_BROKER_URL"] = "redis://other.invalid/0"
    defaults.write(celeryconfig='broker_url = "redis://third.invalid/0"')

    told = defaults.run(
        "from petiole.workers import app\nprint(app.connection_for_write().as_uri(include_password=True))"
    )

    assert told.strip() == f"petiole+{clean_broker_url}"


def test_an_eager_app_publishes_at_once_and_leaves_handling_to_the_workers(project):
    project.write(shop=SHOP.format(configure="app.conf.task_always_eager = True", afterwards=""))

    told = project.run(
        "from petiole.events import TextContent, TextMessageEvent\n"
        "from shop import bus, clerk\n"
        "bus.stores.directory.register(clerk.subscriptions)\n"
        "event = TextMessageEvent(stream_id='s', content=TextContent(text='a'))\n"
        "print(bus.publish.delay(event).get().subscriptions)\n"
        "from petiole.tasks.broker.queue_stats import queue_depth\n"
        "print(queue_depth(bus, bus.app.connection_for_write(), 'clerk'))"
    )

    assert told.splitlines() == ["('clerk.hear',)", "1"]


def test_a_celeryconfig_that_cannot_be_imported_is_not_passed_over(defaults):
    defaults.write(celeryconfig="import no_such_module")

    code, printed = defaults.refused_worker("petiole.workers")

    assert code != 0
    assert "No module named 'no_such_module'" in printed
