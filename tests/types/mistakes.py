"""A user's program, in which type checkers find a mistake in each line that is marked."""

from __future__ import annotations

from petiole import Event, MessageEvent, publish, request
from petiole.events import Content
from petiole.tasks import EventBus


class Order(Content):
    number: int


class OrderPlaced(Event):
    event_type: str = "shop.order.placed"
    content: Order


order = OrderPlaced(stream_id="s", content=Order(number=1))
bus = EventBus()

publish(5)  # mistake
publish()  # mistake
publish(order, dely=5)  # mistake
publish.delay("nonsense", 3, foo=1)  # mistake
publish.delay("nonsense")  # mistake
publish.delay(order, countdown=5)  # mistake
publish.apply_async(order)  # mistake
publish.apply_async((order,), countdown="soon")  # mistake
publish.s("nonsense")  # mistake
bus.publish(5)  # mistake
bus.publish.delay(order, at=3)  # mistake

order.caused(MessageEvent, contnt=3)  # mistake
order.caused(MessageEvent, event_type="message.note", content="text")  # mistake
order.caused(MessageEvent, event_type="message.note", priority="high")  # mistake
number = order.caused(OrderPlaced, content=order.content).content.nmber  # mistake
order.content = Order(number=2)  # mistake

request("user", responder="users", timeout="soon")  # mistake
number = request("user", responder="users", returns=Order).get().value.number  # mistake


async def publish_badly() -> None:
    await publish.aio(5)  # mistake
    await publish.aio(order, foo=1)  # mistake
