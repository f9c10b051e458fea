"""Producer: send task messages over one connection, and raise an error for each message that may be lost.

RabbitMQ confirms each message: the call returns when the queue has the message on disk. If a queue was deleted, its
message is returned; the queue is declared again, and the message is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from amqp.exceptions import AMQPError, MessageNacked, PreconditionFailed
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError

from petiole.events.errors import BrokerFull, BrokerUnavailable, PublishOutcomeUnknown, queue_declared_otherwise
from petiole.tasks.broker.topology import RABBITMQ, queue_declaration
from petiole.tasks.stores.connections import ServerRefused

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

ResultT = TypeVar("ResultT")

CONFIRM_TIMEOUT_S = 10.0
"""How long a publisher waits for a confirm. RabbitMQ sends none while it is out of memory or disk space."""

_CONFIRM_OPTIONS = {"mandatory": True, "confirm_timeout": CONFIRM_TIMEOUT_S, "exchange_type": "direct"}


class ConfirmingProducer:
    """A producer that passes its connection to Celery's sending functions, and checks for returned messages."""

    def __init__(self, producer: Any, options: dict[str, Any], driver: str) -> None:
        self.producer = producer  # Any: the stubs describe half of kombu's producer
        self._driver = driver
        self._options = options
        self._returned: list[str] = []

    def send(self, call: Callable[..., ResultT], *arguments: object, **options: Any) -> ResultT:
        """Send a task by `bus.app.send_task` or `task.apply_async`. Raises their errors, and MessageNacked."""
        options |= self._options | {"producer": self.producer}
        if isinstance(queue := options.get("queue"), str):
            # Celery would declare a queue that this process does not consume in its own way.
            options["queue"] = queue_declaration(queue, self._driver)
        options.setdefault("serializer", "json")
        result = call(*arguments, **options)
        if self._has_returned():
            # Kombu declares a queue once per connection; this one was deleted since.
            self.producer.connection.declared_entities.clear()
            result = call(*arguments, **options)
        if self._has_returned():
            raise MessageNacked(options)
        return result

    def record_returned(self, error: Exception, exchange: object, routing_key: str, message: object) -> None:  # noqa: ARG002
        """Record a message that has no queue. RabbitMQ returns it before it confirms it."""
        self._returned.append(routing_key)

    def _has_returned(self) -> bool:
        returned, self._returned = self._returned, []
        return bool(returned)


@contextmanager
def open_producer(bus: BusRuntime, operation: str) -> Iterator[ConfirmingProducer]:
    """Open a producer for the block; errors name the operation.

    Raises:
        BrokerUnavailable: there is no connection; nothing was sent.
        BrokerFull: the broker is out of memory.
        PublishOutcomeUnknown: the connection was lost in the block; messages may have been sent.
        UsageError: queue_declared_otherwise.
    """
    # An error that leaves this block makes the pool replace the connection, because confirms may be outstanding.
    with bus.app.producer_or_acquire() as producer:
        _connect(producer, operation)
        is_confirmed = bus.driver == RABBITMQ
        confirming = ConfirmingProducer(producer, _CONFIRM_OPTIONS if is_confirmed else {}, bus.driver)
        try:
            with _watch_returns(producer, confirming) if is_confirmed else nullcontext():
                yield confirming
        except PreconditionFailed as error:
            raise queue_declared_otherwise(error.reply_text or "") from error
        except (OperationalError, AMQPError, MessageNacked) as error:
            if isinstance(error.__cause__, OutOfMemoryError):
                raise BrokerFull(operation, str(error.__cause__)) from error
            if isinstance(error.__cause__, ServerRefused):
                raise BrokerUnavailable(operation, str(error.__cause__)) from error
            # Dropped instead of closed: closing would wait for an answer, too.
            producer.connection.collect()
            raise PublishOutcomeUnknown(operation) from error


def _connect(producer: Any, operation: str) -> None:
    try:
        producer.connection.ensure_connection(max_retries=2, interval_start=0, interval_step=0.2, interval_max=0.2)
    except (OperationalError, AMQPError) as error:
        refusal = str(error.__cause__) if isinstance(error.__cause__, ServerRefused) else ""
        raise BrokerUnavailable(operation, refusal) from error


@contextmanager
def _watch_returns(producer: Any, confirming: ConfirmingProducer) -> Iterator[None]:
    # Kombu registers it with the channel, and again after a reconnection. The channel outlives the block.
    producer.on_return = confirming.record_returned
    try:
        yield
        producer.channel.events["basic_return"].discard(confirming.record_returned)
    finally:
        producer.on_return = None
