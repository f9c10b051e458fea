"""The channel: puts messages, takes them in turns, hands them over, gives them back.

A turn is one step at the broker (`scripts/fetch.lua`) that carries the acks there and messages here. The event loop
sends it and reads the answer when it is there; at most one is under way. What it brought waits in a backlog and is
handed over in slices. After a turn that brought nothing, the channel waits for a bell.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import Any, Literal

import redis
from kombu.transport import redis as stock
from kombu.utils.json import dumps, loads
from redis.exceptions import NoScriptError, ResponseError

from petiole.tasks.transport.commands import PUT, Ack, Fetched, QueueSource, RedisCommand, TransportCommands
from petiole.tasks.transport.consumer_id import add_transport_headers, remove_transport_headers
from petiole.tasks.transport.delivery_log import DeliveryLog
from petiole.tasks.transport.leases import LEASE_OPTIONS, Leases
from petiole.tasks.transport.message import DECODE_ERRORS, Message
from petiole.tasks.transport.qos import QoS
from petiole.tasks.transport.quarantine import Quarantine

logger = logging.getLogger(__name__)

# How long a slice of the backlog may hold up the event loop, and how long acks and small credit may wait for company.
DELIVERY_SLICE_S = 0.01
FETCH_DELAY_S = 0.003
MAX_ACK_DELAY_S = 0.02
MAX_PENDING_ACKS = 200
# How much one turn takes at most: the broker serves nobody else meanwhile.
MAX_FETCHED = 256
# How long an answer may be late where the options set no socket_timeout.
SOCKET_TIMEOUT_S = 10.0
# How often to look for messages that no bell announces, for how long after the last one.
FOREIGN_POLL_S, FOREIGN_POLL_DURATION_S = 0.05, 10.0


class BatchingChannel(Leases, Quarantine):
    """What ours changes in a channel of kombu's, plain or by Sentinel."""

    QoS = QoS
    Message = Message

    def __init__(self, *args: Any, **options: Any) -> None:
        self.delivery_log: DeliveryLog | None = None
        self._handled_deliveries: dict[str, str] = {}
        self._acks: list[Ack] = []
        self._acks_in_flight: list[Ack] = []
        self._acked_at = 0.0
        self._backlog: deque[Fetched] = deque()
        self._unacknowledged_queues: set[str] = set()
        self._request: Literal["fetch", "wakeup"] | None = None
        self._sources: list[QueueSource] = []
        self._requested_credit = 0
        self._found_nothing = False
        self._wakeup_timed_out = False
        self._foreign_poll_until = 0.0
        self._fetch_sent_at = 0.0
        self._is_fetch_delayed = False
        self._overdue: float | None = None
        super().__init__(*args, **options)

    # Putting

    def _put(self, queue: str, message: Any, _publish_batch: Any = None, **options: Any) -> None:
        if queue in self._expires:
            # Reply queues of remote control: kombu refreshes all their lists, and nobody waits long for them.
            super()._put(queue, message, _publish_batch=_publish_batch, **options)
            return
        priority = self._get_message_priority(message, reverse=False)
        words = (
            PUT,
            2,
            self._key(self._q_for_pri(queue, priority)),
            self._wakeup_key(queue),
            dumps(remove_transport_headers(message)),
        )
        if _publish_batch is not None:
            _publish_batch.add("eval", *words)
            return
        with self.conn_or_acquire() as client:
            client.eval(*words)

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **options: Any) -> None:
        super()._delete(queue, exchange, routing_key, pattern, *args, **options)
        self._commands.client.delete(self._wakeup_key(queue))

    # Taking

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:  # noqa: FBT001, FBT002 - kombu's
        """Consume; without acks, what is taken is not recorded."""
        if no_ack:
            self._unacknowledged_queues.add(queue)
        else:
            self._unacknowledged_queues.discard(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """Take one message now, or None."""
        source = self._source(queue, is_recorded=not no_ack and self.ack_emulation)
        for taken in self._commands.fetch([source], 1, []):
            message: Any = self.Message(self._read(taken), channel=self)
            if not no_ack:
                self.qos.append(message, message.delivery_tag)
            return message
        return None

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send what is next, and let the event loop wait for the answer; kombu's would send BRPOP."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        command = self._next_command(queues, timeout) if queues else None
        if command:
            self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            self.client.connection.send_command(*command)

    def _next_command(self, queues: Sequence[str], timeout: float | None) -> RedisCommand | None:
        if self._found_nothing and not self._backlog:
            self._request = "wakeup"
            return ("BZPOPMIN", *map(self._wakeup_key, queues), self._wait_s(timeout))
        credit = self._credit()
        if self._may_delay_fetch(credit):
            self._schedule_wakeup()
            return None
        self._request = "fetch"
        self._fetch_sent_at = monotonic()
        self._requested_credit = credit
        self._sources = [self._source(queue) for queue in queues]
        order = "fair" if self.queue_order_strategy == "round_robin" else "strict"
        self._acks_in_flight = self._collect_acks()
        return self._commands.build_fetch_command(self._sources, credit, self._acks_in_flight, order, self.delivery_log)

    def _wait_s(self, timeout: float | None) -> float:
        wait_s = timeout or self.brpop_timeout
        return min(wait_s, FOREIGN_POLL_S) if monotonic() < self._foreign_poll_until else wait_s

    def _credit(self) -> int:
        free = self.qos.can_consume_max_estimate()
        if free is None:
            # Without a limit, a consumer outside a worker takes one message a call, and may never call again.
            free = MAX_FETCHED if self._is_in_loop else 1
        credit = min(free - len(self._backlog), MAX_FETCHED)
        # Half of it at least, or it is not worth while as long as there is something to hand over.
        is_small = 2 * credit < self.qos.prefetch_count
        return 0 if self._backlog and is_small else max(credit, 0)

    def _may_delay_fetch(self, credit: int) -> bool:
        is_small = 2 * credit < self.qos.prefetch_count
        is_early = monotonic() - self._fetch_sent_at < FETCH_DELAY_S
        return self._is_in_loop and is_small and is_early and not self._backlog

    @property
    def _is_in_loop(self) -> bool:
        return self.connection is not None and self.connection.loop is not None

    def _schedule_wakeup(self) -> None:
        """Have the event loop come by, for what waits for company."""
        if not self._is_fetch_delayed:
            self._is_fetch_delayed = True
            self.connection.loop.call_later(FETCH_DELAY_S, self._stop_delaying_fetch)

    def _stop_delaying_fetch(self) -> None:
        self._is_fetch_delayed = False

    def _source(self, queue: str, *, is_recorded: bool | None = None) -> QueueSource:
        if is_recorded is None:
            is_recorded = queue not in self._unacknowledged_queues and self.ack_emulation
        lists = [self._key(self._q_for_pri(queue, step)) for step in self.priority_steps]
        return QueueSource(queue, self._wakeup_key(queue), lists, is_recorded)

    # Handing over

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer, and hand over a slice of the backlog. Raises Empty when there was nothing to hand over."""
        answer = self._read_answer(**options)
        if self._request == "wakeup":
            self._wakeup_timed_out = not answer
            self._found_nothing = False
        else:
            self._add_to_backlog(TransportCommands.parse_fetch_reply(answer or [], self._sources, self._fetch_sent_at))
        if self._closing or not self.deliver_backlog():
            raise Empty
        return True

    def _read_answer(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            answer = self.client.parse_response(connection, "EVALSHA", **options)
        except NoScriptError:
            self._acks.extend(self._acks_in_flight)
            self._commands.load_fetch_script()
            answer = None
            self._requested_credit = 0
        except ResponseError:
            self._acks.extend(self._acks_in_flight)
            raise
        except self.connection_errors:
            self._acks.extend(self._acks_in_flight)
            connection.disconnect()
            raise
        finally:
            self._acks_in_flight = []
            self._in_poll = None
            self._flush_brpop_reauth()
        return answer

    def check_response_timeout(self) -> None:
        """Raise ConnectionError where the broker owes an answer for too long: a connection can be open and dead.

        Seen twice, since the answer may have come while the event loop was busy elsewhere.
        """
        is_late = self._in_poll and monotonic() - self._brpop_sent_at > self.brpop_timeout + self._response_timeout_s
        if not is_late or self._overdue != self._brpop_sent_at:
            self._overdue = self._brpop_sent_at if is_late else None
            return
        self._acks.extend(self._acks_in_flight)
        self._acks_in_flight, self._in_poll = [], None
        self.client.connection.disconnect()
        raise redis.ConnectionError(
            f"the broker has not answered for {self.brpop_timeout + self._response_timeout_s:g} s"
        )

    @property
    def _response_timeout_s(self) -> float:
        return float(self.socket_timeout or SOCKET_TIMEOUT_S)

    def _add_to_backlog(self, messages: list[Fetched]) -> None:
        if messages and self._wakeup_timed_out:
            self._foreign_poll_until = monotonic() + FOREIGN_POLL_DURATION_S
        self._wakeup_timed_out = False
        self._found_nothing = not messages and self._requested_credit > 0
        self._backlog.extend(messages)
        for message in messages:
            self._queue_cycle.rotate(message.queue)
        self._requeue_cancelled()

    def deliver_backlog(self) -> bool:
        """Hand over what the backlog holds, for 10 ms in an event loop, or one message without; return whether any."""
        ends_at = monotonic() + DELIVERY_SLICE_S
        handed_over = False
        while self._backlog and self.qos.can_consume():
            self._send_overdue_acks()
            taken = self._backlog.popleft()
            payload = self._decode(taken)
            if payload is None:
                continue
            self.connection._deliver(payload, taken.queue)  # noqa: SLF001 - kombu's way to the consumer
            handed_over = True
            if not self._is_in_loop or monotonic() >= ends_at:
                break
        return handed_over

    def _decode(self, fetched: Fetched) -> Any:
        is_set_aside = not fetched.tag and fetched.queue not in self._unacknowledged_queues and self.ack_emulation
        with suppress(*DECODE_ERRORS):
            if not is_set_aside:
                return self._read(fetched)
        logger.critical("kept bytes that are no message, from queue %s: %.200r", fetched.queue, fetched.text)
        if not is_set_aside:
            self._commands.quarantine(fetched, self._wakeup_key(fetched.queue))
        return None

    def leased_tags(self) -> list[str]:
        """Return the tags of what this channel took and has not settled; other threads may ask."""
        qos: Any = self.qos  # the stubs know only kombu's
        return [*qos.unsettled(), *(taken.tag for taken in list(self._backlog) if taken.tag)]

    def _read(self, fetched: Fetched) -> Any:
        payload = loads(fetched.text)
        if not fetched.tag:
            return payload
        return add_transport_headers(payload, fetched.checked_at if self.delivery_log else None)

    # Acks

    def take_over_acks(self, previous: BatchingChannel) -> None:
        """Send what a channel whose connection was lost had still to mark as handled. This process holds it still."""
        waiting = [*previous._acks_in_flight, *previous._collect_acks()]
        self._acks.extend(ack for ack in waiting if ack.delivery_id)

    def mark_handled(self, tag: str, delivery_id: str) -> None:
        """Have the ack of a message, which is the next to come, mark its delivery as handled. Needs a ledger."""
        self._handled_deliveries[tag] = delivery_id

    def acknowledge(self, tag: str) -> None:
        """Forget a message with the next turn, or now, where no event loop is there to see to it; any thread may."""
        if not self._acks:
            self._acked_at = monotonic()
        self._acks.append(Ack(tag, self._handled_deliveries.pop(tag, "")))
        # An event loop that waits for a bell does not come by before it rings.
        is_waiting = self._request == "wakeup" and self._in_poll
        is_alone = not self._is_in_loop or not self._consumers or self._closing
        if is_alone or is_waiting or len(self._acks) >= MAX_PENDING_ACKS:
            self.send_acks()

    def _send_overdue_acks(self) -> None:
        """Send the acks that wait too long, as behind a handler that keeps the event loop."""
        if self._acks and monotonic() - self._acked_at > MAX_ACK_DELAY_S:
            self.send_acks()

    def send_pending_acks(self) -> None:
        """Send the acks that no turn takes along, before the event loop waits."""
        is_turning = self._in_poll and self._request == "fetch"
        if self._acks and not is_turning and not self._is_fetch_delayed:
            self.send_acks()

    def send_acks(self) -> None:
        """Send the acks now."""
        acks = self._collect_acks()
        try:
            if acks:
                self._commands.fetch([], 0, acks, delivery_log=self.delivery_log)
        except self.connection_errors:
            self._acks.extend(acks)
            raise

    def _collect_acks(self) -> list[Ack]:
        # Other threads may add to the list meanwhile.
        count = len(self._acks)
        acks, self._acks[:count] = self._acks[:count], []
        return acks

    def _requeue_cancelled(self) -> None:
        """Put back what the backlog holds of queues that nobody consumes any longer."""
        callbacks = self.connection._callbacks  # noqa: SLF001 - kombu's
        unwanted = [taken for taken in self._backlog if taken.queue not in callbacks]
        if unwanted:
            self._backlog = deque(taken for taken in self._backlog if taken.queue in callbacks)
            self._requeue_fetched(unwanted)

    def _requeue_fetched(self, cancelled: Sequence[Fetched]) -> None:
        self.requeue([taken.tag for taken in cancelled if taken.tag], "RPUSH")
        for taken in cancelled:
            if not taken.tag and taken.queue in self._unacknowledged_queues:
                self._commands.client.rpush(self._key(taken.queue), taken.text)

    # Leaving

    def _basic_cancel(self, consumer_tag: str) -> Any:
        result = super()._basic_cancel(consumer_tag)
        self._requeue_cancelled()
        return result

    def close(self) -> None:
        """Send the acks, give back what was not handed over, then close as kombu does."""
        if not self.closed:
            self._closing = True
            try:
                self._release_all()
            except self.connection_errors as error:
                # Without a connection, what is held goes back when its visibility timeout is over.
                logger.warning("the broker is gone; acks and messages held come back by timeout: %s", error)
        super().close()

    def _release_all(self) -> None:
        if self._in_poll and self._request == "wakeup":
            # Nothing is lost with a bell, and closing need not wait for one.
            self.client.connection.disconnect()
            self._in_poll = None
        if self._in_poll:
            with suppress(Empty):
                self._brpop_read()
        self.send_acks()
        waiting, self._backlog = list(self._backlog), deque()
        self._requeue_fetched(waiting)
        self.unregister()

    def _after_fork(self) -> None:
        # The parent's acks and messages are the parent's.
        self._acks, self._acks_in_flight, self._backlog = [], [], deque()
        super()._after_fork()


class Channel(BatchingChannel, stock.Channel):
    """A channel to one server."""

    from_transport_options = stock.Channel.from_transport_options + LEASE_OPTIONS


class SentinelChannel(BatchingChannel, stock.SentinelChannel):
    """A channel to the server that Sentinel names."""

    from_transport_options = stock.SentinelChannel.from_transport_options + LEASE_OPTIONS
