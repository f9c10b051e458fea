"""Buses of one process share nothing: each has its own broker, directory, history and worker."""

from __future__ import annotations

import json

import pytest
from celery import Celery

from petiole.events.errors import UsageError
from petiole.tasks import Agent, EventBus

SHOPS = """
    import os
    import redis
    from celery import Celery
    from petiole.tasks import Agent, EventBus

    url = os.environ["SHOP_BROKER"]
    note = redis.Redis.from_url(url)
    app_one, app_two = Celery("one", broker=url), Celery("two", broker=url.removesuffix("/0") + "/1")
    one, two = EventBus(app_one), EventBus(app_two)

    for bus, name in ((one, "ann"), (two, "bob")):
        agent = Agent(name)

        @agent.on("input.*")
        def hear(event, context):
            note.rpush("seen", f"{context.subscription.agent} {event.content.text}")

        bus.include(agent)
"""

PUBLISH = """
import json
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import EventBus
from shops import one, two

def event(text):
    return TextMessageEvent(stream_id="s", content=TextContent(text=text))

heard = []
def hear(event):
    heard.append(event.content.text)

with EventBus() as three:
    three.subscribe("input.*", hear, agent="cid")
    sent = [bus.publish(event(text)) for bus, text in ((one, "1"), (two, "2"), (three, "3"))]
    two.publish.delay(event("4"))
    three.wait()
    histories = [[each.document["event_id"] for each in bus.stores.history.read_after()] for bus in (one, two, three)]
own = [[one.event.event_id in history for history in histories] for one in sent]
print(json.dumps([heard, [each.subscriptions for each in sent], own]))
"""


def test_what_is_published_on_one_bus_is_heard_on_no_other(project, seen, eventually):
    project.write(shops=SHOPS)
    for name in ("one", "two"):
        project.worker_of(f"shops:app_{name}", "-n", f"{name}@%h")

    told = project.run(PUBLISH)

    heard, subscriptions, is_in_history = json.loads(told)
    eventually(lambda: seen() == ["ann 1", "bob 2", "bob 4"], 20, lambda: (seen(), project.logs()[-3000:]))
    assert (heard, subscriptions) == (["3"], [["ann.hear"], ["bob.hear"], ["cid.hear"]])
    assert is_in_history == [[True, False, False], [False, True, False], [False, False, True]]


def test_a_second_bus_in_one_app_is_refused():
    app = Celery("shop", set_as_current=False)
    EventBus(app)

    with pytest.raises(UsageError, match="'shop' has an event bus already"):
        EventBus(app)


def test_an_app_with_an_amqp_class_of_its_own_is_refused():
    app = Celery("shop", amqp="shop.amqp:AMQP", set_as_current=False)

    with pytest.raises(UsageError, match="amqp_cls of its own"):
        EventBus(app)


def test_two_agents_of_one_name_are_refused_and_the_first_stays():
    bus = EventBus(Celery("shop", set_as_current=False))
    first = Agent("clerk")
    bus.include(first)

    with pytest.raises(UsageError, match="another agent named 'clerk'"):
        bus.include(Agent("clerk"))

    assert bus.agents == {"clerk": first}


@pytest.mark.parametrize("finalized", [True, False])
def test_a_bus_is_made_before_or_after_its_app_was_read_and_finalized(finalized):
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    if finalized:
        app.finalize()
        assert app.conf.timezone is None
    bus = EventBus(app)
    agent = Agent("clerk")
    agent.on("input.*")(a_handler)
    bus.include(agent)

    assert {"petiole.publish", "petiole.tick", "clerk.a_handler"} <= set(app.tasks)
    assert {"celery", "publish", "clerk"} == set(app.amqp.queues)


def a_handler(event) -> None:
    pass


@pytest.mark.parametrize(
    "urls",
    ["redis://one.invalid/0;redis://two.invalid/0", ["redis://one.invalid/0", "redis://two.invalid/0"]],
    ids=["text", "list"],
)
def test_every_address_of_a_failover_list_is_reached_by_our_transport(urls):
    app = Celery("shop", broker=urls, set_as_current=False)
    bus = EventBus(app)

    connection = app.connection_for_read()

    assert connection.alt == ["petiole+redis://one.invalid/0", "petiole+redis://two.invalid/0"]
    assert app.conf.broker_url == urls
    with pytest.raises(UsageError, match="set PETIOLE_STATE_URL to one Redis"):
        _ = bus.redis


def test_the_transport_is_ours_also_where_the_environment_names_the_broker(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://127.0.0.1:1/0")
    app = Celery("shop", set_as_current=False)
    EventBus(app)

    assert app.connection_for_write().as_uri() == "petiole+redis://127.0.0.1:1/0"
