"""STATION 1, publication: an event is checked, recorded, and sent to every subscription that matches.

    publish.delay(event)    one message to the queue `publish`; a worker does the rest. Needs the broker only.
    publish(event)          the same here and now: one hop less. Needs the broker and the state store.

Both check first, in the caller: a bad event raises there, and nothing is sent. The event may be one of our classes, a
JSON object of ours, or a CloudEvent. Publishing one event twice is publishing it once: its deliveries have the same
ids, and a publication that was cut short is completed by the next one.

Inside a handler `publish(event)` holds the event back until the handler has succeeded; `now=True` does not wait.
What a shadow says is held back in every case, and never leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Task, uuid
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from events.errors import BrokerUnavailable
from events.event import Event
from tasks.celery import EventApp, app
from tasks.context import Context, current_context
from tasks.wire import Admitted, Document, admit, broker_priority, read

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from tasks.routing import Route

PUBLISH_TASK = "petiole.publish"
PUBLISH_QUEUE = "publish"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of a publish: the event as it went out, and the subscriptions it was sent to.

    `was_repeated` tells that all of it had been sent before; `was_held` that it leaves when the handler succeeds.
    """

    event: Event
    subscriptions: tuple[str, ...] = ()
    was_repeated: bool = False
    was_held: bool = False


class Publish(Task[..., Any]):
    """The task and the function: see the module."""

    name = PUBLISH_TASK
    ignore_result = True
    app: EventApp

    def run(self, event: Event | Document, *, now: bool = False) -> Publication:
        """Publish here and now, or hold back inside a handler. Safe to repeat.

        Raises: Misuse (UnknownEventType, InvalidEvent, EventTooLarge), BrokerUnavailable.
        """
        context = current_context()
        if context is None:
            return _publish(self.app, _admit(self.app, event))
        if now and not context.subscription.shadow:
            return _publish(context.app, _emitted(context, event))
        return hold(context, event)

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Check the event, then send it to the queue `publish`; also inside a handler, without waiting for its end.

        Raises as `run`.
        """
        event = args[0] if args else (kwargs or {})["event"]
        context = current_context()
        if context and context.subscription.shadow:
            hold(context, event)
            return self.AsyncResult(options.get("task_id") or uuid())
        admitted = _emitted(context, event) if context else _admit(self.app, event)
        self.app.require_broker()
        options.setdefault("queue", PUBLISH_QUEUE)
        options.setdefault("priority", broker_priority(admitted.event.priority, self.app.driver))
        options.setdefault("argsrepr", admitted.event.event_type)
        try:
            return super().apply_async((admitted.document,), {}, **options)
        except OperationalError as error:
            raise BrokerUnavailable(f"publishing {admitted.event.event_type}") from error


publish: Publish = app.adopt(Publish)


def hold(context: Context, event: Event | Document) -> Publication:
    """Keep an event of a handler's until the handler has succeeded. Raises Misuse for one that cannot be published."""
    admitted = _emitted(context, event)
    context.outbox.held.append(admitted)
    return Publication(admitted.event, was_held=True)


def release(app: EventApp, held: Sequence[Admitted]) -> None:
    """Publish what a handler held back. Safe to repeat. Raises BrokerUnavailable."""
    for admitted in held:
        _publish(app, admitted)


def announce(app: EventApp, event: Event) -> Publication:
    """Publish an event of Petiole's own, whatever is being handled. Raises as `publish`."""
    return _publish(app, _admit(app, event))


def _admit(app: EventApp, event: Event | Document) -> Admitted:
    return admit(event, app.event_registry, app.settings.max_event_bytes)


def _emitted(context: Context, event: Event | Document) -> Admitted:
    said = event if isinstance(event, Event) else read(event, context.app.event_registry)
    return _admit(context.app, context.emitted(said))


def _publish(app: EventApp, admitted: Admitted) -> Publication:
    app.require_broker()
    try:
        return _fan_out(app, admitted)
    except (OperationalError, RedisConnectionError, RedisTimeoutError) as error:
        raise BrokerUnavailable(f"publishing {admitted.event.event_type}") from error


def _fan_out(app: EventApp, admitted: Admitted) -> Publication:
    event = admitted.event
    if app.stores.history.record(event, admitted.text) == "done":
        return Publication(event, was_repeated=True)
    routes = app.routing().routes(event, admitted.document)
    if routes:
        _send(app, admitted, routes)
    else:
        app.stores.counters.add("unrouted")
    # Noted after the last send: a publisher that dies before it leaves a publication that the next one completes.
    app.stores.history.close(event.event_id)
    names = tuple(route.subscription.name for route in routes)
    log.debug(
        "event.published",
        extra={"event_type": event.event_type, "event_id": event.event_id, "subscriptions": names},
    )
    return Publication(event, names)


def _send(app: EventApp, admitted: Admitted, routes: Sequence[Route]) -> None:
    event = admitted.event
    with app.producer_or_acquire() as producer, producer.batch():
        for route in routes:
            app.send_task(
                route.subscription.name,
                args=(admitted.document,),
                task_id=route.delivery_id,
                queue=route.subscription.queue,
                priority=broker_priority(route.priority, app.driver),
                producer=producer,
                ignore_result=True,
                argsrepr=event.event_type,
                kwargsrepr="",
            )
