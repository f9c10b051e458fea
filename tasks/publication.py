"""STATION 1, publication: an event is checked, recorded, and sent to every subscription that matches.

    publish.delay(event)    one message to the queue `publish`; a worker does the rest. Needs the broker only; for an
                            event above PETIOLE_CLAIM_CHECK_BYTES the state store too, which takes its content.
    publish(event)          the same here and now: one hop less. Needs the broker and the state store.

Both check first, in the caller: a bad event raises there, and nothing is sent. The event may be one of our classes, a
JSON object of ours, or a CloudEvent. Publishing one event twice is publishing it once: its deliveries have the same
ids, and a publication that was cut short is completed by the next one.

Inside a handler `publish(event)` holds the event back until the handler has succeeded; `now=True` does not wait.
What a shadow says is held back in every case, and never leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Task, uuid

from events.errors import PayloadUnreadable
from events.event import Event
from tasks import payloads
from tasks.burial import bury, letter_of
from tasks.celery import EventApp, app
from tasks.context import Context, current_context
from tasks.dispatch import Publication, dispatch
from tasks.door import checked
from tasks.envelopes import DEAD_LETTER_HEADER
from tasks.queues import lane
from tasks.replays import REPLAY_HEADER, replay_number
from tasks.sending import sending
from tasks.wire import Admitted, Document, broker_priority, read

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
            with self._burying(event):
                published = dispatch(self.app, [checked(self.app, event)])[0]
            if letter_id := self._letter_id():
                self.app.stores.dead_letters.resolve(letter_id, replay_number(self.request.get(REPLAY_HEADER)))
            return published
        if now and not context.subscription.shadow:
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
        if context and context.subscription.shadow:
            hold(context, event)
            return self.AsyncResult(options.get("task_id") or uuid())
        admitted = _emitted(context, event) if context else checked(self.app, event)
        self.app.require_broker()
        priority, driver = admitted.event.priority, self.app.driver
        options.setdefault("queue", lane(PUBLISH_QUEUE, priority, driver))
        options.setdefault("priority", broker_priority(priority, driver))
        options.setdefault("argsrepr", admitted.event.event_type)
        payloads.store(self.app, [admitted])
        with sending(self.app, f"publishing {admitted.event.event_type}") as outlet:
            return outlet.send(super().apply_async, (admitted.travelling,), {}, **options)

    def _letter_id(self) -> str | None:
        """Tell of which dead letter this run is a replay; None for most."""
        found = None if self.request.called_directly else self.request.get(DEAD_LETTER_HEADER)
        return found if isinstance(found, str) else None

    @contextmanager
    def _burying(self, event: Event | Document) -> Iterator[None]:
        """Keep a dead letter of an event that a worker was told to publish, and whose content is gone."""
        try:
            yield
        except PayloadUnreadable as error:
            if not self.request.called_directly:
                letter = letter_of(
                    self.app,
                    error,
                    "payload",
                    delivery_id=str(self.request.id),
                    subscription=PUBLISH_TASK,
                    queue=PUBLISH_QUEUE,
                    document=event,
                    letter_id=self._letter_id(),
                )
                bury(self.app, letter)
            raise


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
    admitted = [checked(app, event) for event in events]
    return [publication for batch in batched(admitted, MANY) for publication in dispatch(app, batch)]


def _emitted(context: Context, event: Event | Document) -> Admitted:
    said = event if isinstance(event, Event) else read(payloads.whole(context.app, event), context.app.event_registry)
    return checked(context.app, context.emitted(said))


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of at most that size. The standard library has it from Python 3.12 on."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
