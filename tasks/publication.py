"""STATION 1, publication: an event is checked, recorded, and sent to every subscription that matches.

    publish.delay(event)    one message to the queue `publish`; a worker does the rest. Needs the broker only.
    publish(event)          the same here and now: one hop less. Needs the broker and the state store.

Both check first, in the caller: a bad event raises there, and nothing is sent. The event may be one of our classes, a
JSON object of ours, or a CloudEvent. Publishing one event twice is publishing it once: its deliveries have the same
ids, and a publication that was cut short is completed by the next one.

Inside a handler `publish(event)` holds the event back until the handler has succeeded; `now=True` does not wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Task

from events.event import Event
from tasks.celery import EventApp, app
from tasks.context import Context, current_context
from tasks.dispatch import Publication, dispatch
from tasks.queues import lane
from tasks.sending import sending
from tasks.wire import Admitted, Document, admit, broker_priority, read

if TYPE_CHECKING:
    from celery.result import AsyncResult

PUBLISH_TASK = "petiole.publish"
PUBLISH_QUEUE = "publish"

MANY = 100
"""Events that `publish_many` sends in one step; Redis does nothing else meanwhile."""

Item = TypeVar("Item")


class Publish(Task[..., Any]):
    """The task and the function: see the module."""

    name = PUBLISH_TASK
    ignore_result = True
    app: EventApp

    def run(self, event: Event | Document, *, now: bool = False) -> Publication:
        """Publish here and now, or hold back inside a handler. Safe to repeat.

        Raises: Misuse (UnknownEventType, InvalidEvent, EventTooLarge), BrokerUnavailable (PublicationUncertain).
        """
        context = current_context()
        if context is None:
            return dispatch(self.app, [_admit(self.app, event)])[0]
        if now:
            return dispatch(context.app, [_emitted(context, event)])[0]
        return hold(context, event)

    def apply_async(  # type: ignore[override]  # the stubs list every option; we pass them on as they come
        self, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Check the event, then send it to the queue `publish`; also inside a handler, without waiting for its end.

        Raises as `run`.
        """
        event = args[0] if args else (kwargs or {})["event"]
        context = current_context()
        admitted = _emitted(context, event) if context else _admit(self.app, event)
        self.app.require_broker()
        priority, driver = admitted.event.priority, self.app.driver
        options.setdefault("queue", lane(PUBLISH_QUEUE, priority, driver))
        options.setdefault("priority", broker_priority(priority, driver))
        options.setdefault("argsrepr", admitted.event.event_type)
        with sending(self.app, f"publishing {admitted.event.event_type}") as outlet:
            return outlet.send(super().apply_async, (admitted.document,), {}, **options)


publish: Publish = app.adopt(Publish)


def hold(context: Context, event: Event | Document) -> Publication:
    """Keep an event of a handler's until the handler has succeeded. Raises Misuse for one that cannot be published."""
    admitted = _emitted(context, event)
    context.outbox.held.append(admitted)
    return Publication(admitted.event, was_held=True)


def publish_many(events: Iterable[Event | Document]) -> list[Publication]:
    """Publish several events at once, in order; each as `publish` would, at a fraction of the cost.

    All are checked before the first is sent. Safe to repeat as a whole. Raises as `publish`.
    """
    context = current_context()
    if context is not None:
        return [hold(context, event) for event in events]
    admitted = [_admit(app, event) for event in events]
    return [publication for batch in batched(admitted, MANY) for publication in dispatch(app, batch)]


def announce(app: EventApp, event: Event) -> Publication:
    """Publish an event of Petiole's own, whatever is being handled. Raises as `publish`."""
    return dispatch(app, [_admit(app, event)])[0]


def _admit(app: EventApp, event: Event | Document) -> Admitted:
    return admit(event, app.event_registry, app.settings.max_event_bytes)


def _emitted(context: Context, event: Event | Document) -> Admitted:
    said = event if isinstance(event, Event) else read(event, context.app.event_registry)
    return _admit(context.app, context.emitted(said))


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of at most that size. The standard library has it from Python 3.12 on."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
