"""Sending: task messages leave over one connection, and none is lost without a word.

On RabbitMQ each message is confirmed: the call returns when the queue has it on disk. A message whose queue was deleted
comes back, the queue is declared again, and the message sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from amqp.exceptions import AMQPError, MessageNacked, PreconditionFailed
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError

from petiole.events.errors import BrokerFull, BrokerUnavailable, PublishOutcomeUnknown, queue_declared_otherwise
from petiole.tasks.broker.topology import RABBITMQ

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

Result = TypeVar("Result")

CONFIRM_TIMEOUT_S = 10.0
"""How long a publisher waits for RabbitMQ to confirm; one that is out of memory or disk takes nothing meanwhile."""

_CONFIRMED = {"mandatory": True, "confirm_timeout": CONFIRM_TIMEOUT_S, "exchange_type": "direct"}


class Outlet:
    """A connection that Celery's sending calls are made with."""

    def __init__(self, producer: Any, options: dict[str, Any]) -> None:
        self.producer = producer  # Any: the stubs lack half of kombu's producer
        self._options = options
        self._returned: list[str] = []

    def send(self, call: Callable[..., Result], *arguments: object, **options: Any) -> Result:
        """Send a task by `bus.app.send_task` or `task.apply_async`. Raises what Celery raises, and MessageNacked."""
        options |= self._options | {"producer": self.producer}
        sent = call(*arguments, **options)
        if self._has_returned():
            # Kombu declares a queue once per connection; this one was deleted since.
            self.producer.connection.declared_entities.clear()
            sent = call(*arguments, **options)
        if self._has_returned():
            raise MessageNacked(options)
        return sent

    def note_return(self, error: Exception, exchange: object, routing_key: str, message: object) -> None:  # noqa: ARG002
        """Note a message that found no queue. RabbitMQ sends it back before it confirms it."""
        self._returned.append(routing_key)

    def _has_returned(self) -> bool:
        returned, self._returned = self._returned, []
        return bool(returned)


@contextmanager
def sending(bus: BusRuntime, what: str) -> Iterator[Outlet]:
    """Connect, for as long as the block; `what` tells in errors what was being done.

    Raises: BrokerUnavailable before the block, where nothing was sent; in it BrokerFull, PublishOutcomeUnknown, where
    it is not known what was sent, and UsageError (queue_declared_otherwise).
    """
    # An error on its way out of this block makes the pool replace the connection: confirms may still be under way.
    with bus.app.producer_or_acquire() as producer:
        _connect(producer, what)
        is_confirmed = bus.driver == RABBITMQ
        outlet = Outlet(producer, _CONFIRMED if is_confirmed else {})
        try:
            with _returns_noticed(producer, outlet) if is_confirmed else nullcontext():
                yield outlet
        except PreconditionFailed as error:
            raise queue_declared_otherwise(error.reply_text or "") from error
        except (OperationalError, AMQPError, MessageNacked) as error:
            if isinstance(error.__cause__, OutOfMemoryError):
                raise BrokerFull(what, str(error.__cause__)) from error
            # Dropped, not closed: a broker that did not answer would not answer to that either.
            producer.connection.collect()
            raise PublishOutcomeUnknown(what) from error


def _connect(producer: Any, what: str) -> None:
    try:
        producer.connection.ensure_connection(max_retries=2, interval_start=0, interval_step=0.2, interval_max=0.2)
    except (OperationalError, AMQPError) as error:
        raise BrokerUnavailable(what) from error


@contextmanager
def _returns_noticed(producer: Any, outlet: Outlet) -> Iterator[None]:
    # Kombu puts it on the channel, also on the one after a reconnection. The channel outlives the block.
    producer.on_return = outlet.note_return
    try:
        yield
        producer.channel.events["basic_return"].discard(outlet.note_return)
    finally:
        producer.on_return = None
