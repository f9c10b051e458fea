from __future__ import annotations

from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import EventBus
from petiole.tasks.instrumentation import DeliveryFinished, EventPublished, Record
from tests.support.apps import a_bus


def test_a_bus_that_gets_another_broker_forgets_what_it_knew_of_the_first():
    bus = a_bus("redis://127.0.0.1:1")
    assert (bus.driver, bus.publishes_atomically) == ("redis", True)

    bus.use_broker("amqp://127.0.0.1:1")

    assert (bus.driver, bus.publishes_atomically) == ("amqp", False)


def test_a_listener_gets_the_records_of_its_bus_and_one_that_fails_changes_no_outcome():
    records: list[Record] = []

    def fail(record: Record) -> None:
        raise RuntimeError(record.logged_name)

    def ignore(event: TextMessageEvent) -> None: ...

    with EventBus() as bus:
        bus.instrumentation.listen(fail)
        bus.instrumentation.listen(records.append)
        bus.subscribe("input.*", ignore, agent="one")
        bus.publish(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))
        bus.wait()

    published = [record.subscriptions for record in records if isinstance(record, EventPublished)]
    finished = [(record.subscription, record.outcome) for record in records if isinstance(record, DeliveryFinished)]
    assert (published, finished) == ([("one.ignore",)], [("one.ignore", "handled")])
