"""A user's program, every line of which type checkers accept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, assert_type

from pydantic import BaseModel, Field

from petiole import Agent, Context, Event, MessageEvent, publish, request
from petiole.events import Content, ParametersContent
from petiole.tasks import EventBus, Publication


class Order(Content):
    number: int


class OrderPlaced(Event):
    event_type: Literal["shop.order.placed"] = "shop.order.placed"
    content: Order


class Greeting(ParametersContent):
    name: str = "Ada"


class GreetingEvent(MessageEvent):
    content: Greeting = Field(default_factory=Greeting)


class User(BaseModel):
    name: str


agent = Agent("shop")
order = OrderPlaced(stream_id="s", content=Order(number=1))
assert_type(order.content.number, int)


@agent.on("shop.order.*", priority=9)
async def deliver(event: OrderPlaced, context: Context) -> GreetingEvent:
    await publish.aio(event.caused(MessageEvent, event_type="message.note", content={"parameters": {}}))
    return event.caused(GreetingEvent, event_type="message.greeting", content=Greeting(name=context.delivery_id))


@agent.on("shop.order.*")
def note(event: OrderPlaced) -> int:
    return event.content.number


assert_type(note(order), int)
assert_type(order.caused(OrderPlaced, content=Order(number=2), priority=9, expires_at=None), OrderPlaced)

assert_type(publish(order), Publication)
publish({"event_type": "message.note", "stream_id": "s"})
publish(order, delay=timedelta(hours=1))
publish(order, at=datetime.now(UTC))
publish.delay(order)
publish.delay(order, delay=5)
publish.apply_async((order,), countdown=3)
publish.apply_async((order,), {"delay": 3}, task_id="1")
publish.s(order)
publish.s(order, delay=5).apply_async()

bus = EventBus()
bus.publish(order)
bus.publish.delay(order)
bus.subscribe("shop.*", note)

assert_type(request("user", responder="users", returns=User).get().value, User | None)


async def ask() -> str:
    assert_type(await publish.aio(order, delay=5), Publication)
    response = await request.aio("user", responder="users", returns=User)
    return response.value.name if response.value else ""
