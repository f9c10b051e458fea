"""Channel: puts messages, fetches deliveries in batches and hands them over.

One Lua call (`scripts/fetch.lua`) sends pending acknowledgements and fetches new deliveries. The event loop sends it
and reads the reply when it arrives; at most one call is outstanding. What was fetched waits in a backlog and is handed
over in slices. After a fetch that found nothing, the channel blocks on the wake-up keys of its queues; a worker sends
the next fetch with it, which the server executes as soon as there is something to fetch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import Any, Literal

import redis
from hiredis import pack_command
from kombu.transport import redis as stock
from kombu.utils.json import dumps
from redis.exceptions import NoScriptError, ResponseError

from petiole.tasks.stores.connections import SENTINEL_TIMEOUTS
from petiole.tasks.transport.acknowledgements import Acknowledgements
from petiole.tasks.transport.commands import PUT, Fetched, QueueSource, RedisCommand, TransportCommands
from petiole.tasks.transport.consumer_state import ConsumerState
from petiole.tasks.transport.leases import HEARTBEAT_INTERVAL_S, LEASE_OPTIONS, Leases, lease_clock
from petiole.tasks.transport.message import DECODE_ERRORS, Message, build_payload, without_own_headers
from petiole.tasks.transport.qos import QoS
from petiole.tasks.transport.quarantine import Quarantine
from petiole.tasks.transport.queue_sources import QueueSources

logger = logging.getLogger(__name__)

# How long handing over may block the event loop; how long a small fetch may wait to be batched.
DELIVERY_SLICE_S = 0.01
FETCH_DELAY_S = 0.003
# Deliveries per fetch; the broker serves no other client during it.
MAX_FETCHED = 256
# How long a reply may be late if the transport options set no socket_timeout.
SOCKET_TIMEOUT_S = 10.0
# How often to look for messages that came without a wake-up, and for how long after the last such message.
FOREIGN_POLL_S, FOREIGN_POLL_DURATION_S = 0.05, 10.0


class BatchingChannel(Leases, QueueSources, Acknowledgements, Quarantine):
    """Our changes to a channel of kombu's; a mixin for the plain and the Sentinel channel."""

    QoS = QoS
    Message = Message

    def __init__(self, *args: Any, **options: Any) -> None:
        # Whether the worker calls `renew` every HEARTBEAT_INTERVAL_S.
        self.is_renewed = False
        # Takes a delivery from the channel, or returns False: it is handed over as a message.
        self.accept: Callable[[Fetched, BatchingChannel], bool] | None = None
        # Whether what the worker took can be given back while it waits, so that it may take more than it prefetches.
        self.gives_back_waiting = self._may_run_ahead = False
        self._settled = 0
        self._backlog: deque[Fetched] = deque()
        self._request: Literal["fetch", "wakeup"] | None = None
        # Whether the reply to a fetch follows that to the wait for a wake-up.
        self._is_fetch_sent = False
        self._sources: list[QueueSource] = []
        self._requested_credit = 0
        self._found_nothing = False
        self._wakeup_timed_out = False
        self._foreign_poll_until = 0.0
        self._fetch_sent_at = self._fetched_at = 0.0
        self._overdue: float | None = None
        super().__init__(*args, **options)
        self.use_consumer_id(self.leased.consumer_id)

    # Publishing

    def _put(self, queue: str, message: Any, _publish_batch: Any = None, **options: Any) -> None:
        if queue in self._expires:
            # Reply queues of remote control: kombu extends the expiry of all their lists.
            super()._put(queue, message, _publish_batch=_publish_batch, **options)
            return
        priority = self._get_message_priority(message, reverse=False)
        arguments = (
            PUT,
            0,
            self._key(self._q_for_pri(queue, priority)),
            self._wakeup_key(queue),
            dumps(without_own_headers(message)),
        )
        if _publish_batch is not None:
            _publish_batch.add("eval", *arguments)
            return
        with self.conn_or_acquire() as client:
            client.eval(*arguments)

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **options: Any) -> None:
        super()._delete(queue, exchange, routing_key, pattern, *args, **options)
        self._commands.client.delete(self._wakeup_key(queue))

    # Fetching

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """Fetch one message now; return None if there is none."""
        source = self._source(queue, is_leased=not no_ack and self.ack_emulation)
        if source.is_leased:
            self._renew_without_worker()
        first_tag = self._reserve_tags(1)
        for fetched in self._commands.fetch([source], 1, first_tag, []):
            self.leased.first_tag_sent = None
            message: Any = self.Message(build_payload(fetched, self.consumer_id), channel=self)
            if fetched.tag:
                self.leased.unsettled.add(fetched.tag)
                self.qos.append(message, message.delivery_tag)
            return message
        self.leased.first_tag_sent = None
        return None

    def _reserve_tags(self, count: int) -> int:
        """Return the first of the delivery tags of a fetch."""
        first = self.leased.first_tag_sent = self.leased.next_tag
        self.leased.next_tag += count
        return first

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send the next command; the event loop waits for its reply. Kombu would send BRPOP here."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        commands = self._next_commands(queues, timeout) if queues else ()
        if commands:
            connection: Any = self.client.connection
            self._in_poll = connection
            self._brpop_sent_at = monotonic()
            connection.send_packed_command([pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub describes a tuple of one

    def _next_commands(self, queues: Sequence[str], timeout: float | None) -> Sequence[RedisCommand]:
        credit = self._credit()
        if self._found_nothing and not self._backlog:
            self._request = "wakeup"
            # A consumer outside a worker may never read what such a fetch leases.
            self._is_fetch_sent = self._is_in_loop and credit > 0
            wait = self._wait_for_wakeup(queues, timeout)
            return (wait, self._fetch(queues, credit, [])) if self._is_fetch_sent else (wait,)
        if not credit and self._backlog and not self._can_hand_over():
            return ()
        if self._may_delay_fetch(credit):
            self._schedule_wakeup()
            return ()
        self._request = "fetch"
        self.leased.acks_sent = self._collect_acks()
        return (self._fetch(queues, credit, self.leased.acks_sent),)

    def _wait_for_wakeup(self, queues: Sequence[str], timeout: float | None) -> RedisCommand:
        parked = [f"{source.lists}:wakeup" for source in self._parked_sources(queues)]
        return ("BZPOPMIN", *map(self._wakeup_key, queues), *parked, self._own_wakeup_key, self._wait_s(timeout))

    def _fetch(self, queues: Sequence[str], credit: int, acks: Sequence[str]) -> RedisCommand:
        self._fetch_sent_at, self._fetched_at = monotonic(), lease_clock()
        self._requested_credit = credit
        # Parked deliveries first: they have waited longer.
        self._sources = [*self._parked_sources(queues), *map(self._source, queues)]
        order = "fair" if self.queue_order_strategy == "round_robin" else "strict"
        if not self._is_in_loop and any(source.is_leased for source in self._sources):
            self._renew_without_worker()
        return self._commands.build_fetch_command(self._sources, credit, self._reserve_tags(credit), acks, order)

    def renew_if_overdue(self) -> None:
        """Send a heartbeat if it is due and the worker sends none itself: a worker without an event bus."""
        is_due = not self.is_renewed and monotonic() - self._contact_at > HEARTBEAT_INTERVAL_S / 2
        # Not for channels whose queues need no acknowledgement, such as that of remote control.
        if is_due and self.ack_emulation and set(self.active_queues) - self._unacknowledged_queues:
            self.renew()

    def _renew_without_worker(self) -> None:
        """Send a heartbeat for a consumer outside a worker, if it is due."""
        # More often than others consider this consumer to be in touch.
        if monotonic() - self._contact_at > self.consumer_timeout / 4:
            self.renew()

    def _wait_s(self, timeout: float | None) -> float:
        wait_s = timeout or self.brpop_timeout
        if not self._is_in_loop:
            # Only the next fetch sends a heartbeat.
            wait_s = min(wait_s, self.consumer_timeout / 4)
        return min(wait_s, FOREIGN_POLL_S) if monotonic() < self._foreign_poll_until else wait_s

    def _credit(self) -> int:
        free = self.qos.can_consume_max_estimate()
        if free is None:
            # A consumer outside a worker has no prefetch limit. It gets one message per call and may never call again.
            free = MAX_FETCHED if self._is_in_loop else 1
        credit = min(free - len(self._backlog), MAX_FETCHED)
        # While the backlog has messages, a fetch for less than half of the limit is not worth a round trip.
        is_small = 2 * credit < self.qos.fetch_limit()
        return 0 if self._backlog and is_small else max(credit, 0)

    def _may_delay_fetch(self, credit: int) -> bool:
        is_small = 2 * credit < self.qos.fetch_limit()
        is_early = monotonic() - self._fetch_sent_at < FETCH_DELAY_S
        return self._is_in_loop and is_small and is_early and not self._backlog

    @property
    def _is_in_loop(self) -> bool:
        return self.connection is not None and self.connection.loop is not None

    def _schedule_wakeup(self) -> None:
        """Have the event loop call this channel again after the delay."""
        if not self._is_fetch_delayed:
            self._is_fetch_delayed = True
            self.connection.loop.call_later(FETCH_DELAY_S, self._stop_delaying_fetch)

    def _stop_delaying_fetch(self) -> None:
        self._is_fetch_delayed = False

    # Handing over

    def _brpop_read(self, **options: Any) -> bool:
        """Read the reply, and hand over a slice of the backlog. Raises Empty if there was no message to hand over."""
        if self._request == "wakeup":
            self._wakeup_timed_out = not self._read_reply(**options)
            self._found_nothing = False
        if self._request == "fetch" or self._is_fetch_sent:
            self._request, self._is_fetch_sent = "fetch", False
            reply = self._read_reply() or [0]
            self._add_to_backlog(list(TransportCommands.parse_fetch_reply(reply, self._sources, self._fetched_at)))
        if self._closing or not self.deliver_backlog():
            raise Empty
        return True

    def _read_reply(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            reply = self.client.parse_response(connection, "EVALSHA", **options)
        except NoScriptError:
            self.leased.acks.extend(self.leased.acks_sent)
            self._commands.load_fetch_script()
            reply = None
            self._requested_credit = 0
        except (ResponseError, *self.connection_errors):
            self.leased.acks.extend(self.leased.acks_sent)
            # Another reply may follow.
            connection.disconnect()
            raise
        finally:
            self.leased.acks_sent = []
            self._in_poll = None
            self._flush_brpop_reauth()
        return reply

    def check_response_timeout(self) -> None:
        """Raise ConnectionError if a reply is overdue: a dead connection may stay open.

        It must be overdue in two checks, because the reply may have arrived while the event loop was blocked.
        """
        is_late = self._in_poll and monotonic() - self._brpop_sent_at > self.brpop_timeout + self._response_timeout_s
        if not is_late or self._overdue != self._brpop_sent_at:
            self._overdue = self._brpop_sent_at if is_late else None
            return
        self.leased.acks.extend(self.leased.acks_sent)
        self.leased.acks_sent, self._in_poll = [], None
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
        if self._request == "fetch":
            self.leased.first_tag_sent = None
        for message in messages:
            self._queue_cycle.rotate(message.queue)
        self._give_back_cancelled()

    def deliver_backlog(self) -> bool:
        """Hand over messages of the backlog: for 10 ms in an event loop, otherwise one. Return whether any was."""
        deadline = monotonic() + DELIVERY_SLICE_S
        was_delivered = False
        while self._backlog:
            self._send_overdue_acks()
            if not self._confirm_backlog():
                continue
            if not self._can_hand_over():
                break
            was_delivered = self._hand_over_next() or was_delivered
            if not self._is_in_loop or monotonic() >= deadline:
                break
        return was_delivered

    def _can_hand_over(self) -> bool:
        return self.qos.is_within_prefetch() or (self._may_run_ahead and self.qos.can_consume())

    def _hand_over_next(self) -> bool:
        is_ahead = not self.qos.is_within_prefetch()
        try:
            fetched = self._backlog.popleft()
        except IndexError:
            return False  # another thread has just returned it
        if not is_ahead:
            self._may_run_ahead = self.gives_back_waiting
            return self._hand_over(fetched)
        # Only what takes the direct way can be given back.
        self._may_run_ahead = self._accept(fetched)
        if not self._may_run_ahead:
            self.leased.settle((fetched.tag,))
            self._backlog.appendleft(fetched)
        return self._may_run_ahead

    def give_back_excess(self) -> None:
        """Return what exceeds the prefetch limit if nothing was settled since the last call. Any thread may call it."""
        settled, self._settled = self._settled, self.qos.settled
        excess: list[Fetched] = []
        with suppress(IndexError):
            while settled == self._settled and self.qos.excess(len(self._backlog)):
                excess.append(self._backlog.pop())
        self._give_back_fetched(excess)

    def _hand_over(self, fetched: Fetched) -> bool:
        """Give a delivery to the worker, directly or as a message; return False if it is invalid."""
        if self._accept(fetched):
            return True
        payload = self._decode(fetched)
        if payload is None:
            self.leased.settle((fetched.tag,))
            return False
        self.connection._deliver(payload, fetched.queue)  # noqa: SLF001 - calls kombu's consumer callback
        return True

    def _accept(self, fetched: Fetched) -> bool:
        if fetched.tag:
            self.leased.unsettled.add(fetched.tag)
        return self.accept is not None and self.accept(fetched, self)

    def _confirm_backlog(self) -> bool:
        """Renew the leases if the broker has not confirmed them for long; return whether the backlog has deliveries."""
        if self._is_registered and not self.is_lease_confirmed():
            self.renew()
        return bool(self._backlog)

    def _decode(self, fetched: Fetched) -> Any:
        with suppress(*DECODE_ERRORS):
            return build_payload(fetched, self.consumer_id, fetched.fetched_at)
        logger.critical("message.quarantined", extra={"queue": fetched.queue, "bytes": repr(fetched.text[:200])})
        if fetched.tag:
            self._commands.quarantine(fetched)
        return None

    def leased_tags(self) -> list[str]:
        """Return the tags of the deliveries that wait or run in this process. Any thread may call it."""
        return [*self.leased.unsettled.copy(), *self.waiting_tags()]

    def waiting_tags(self) -> list[str]:
        """Return the tags of the deliveries that were not handed over. Any thread may call it."""
        return [item.tag for item in list(self._backlog) if item.tag]

    def is_known(self, tag: str) -> bool:
        """Return whether the reply to an outstanding fetch may have a delivery."""
        first = self.leased.first_tag_sent
        return first is not None and int(tag) >= first

    def forget_leases(self, tags: Collection[str]) -> None:
        """Drop lost deliveries that were not handed over."""
        lost = set(tags)
        self._backlog = deque(item for item in list(self._backlog) if item.tag not in lost)
        self.leased.settle(lost)

    # Returning

    def _give_back_cancelled(self) -> None:
        """Return deliveries of the backlog whose queue is no longer consumed."""
        callbacks = self.connection._callbacks  # noqa: SLF001 - kombu's
        cancelled = [fetched for fetched in self._backlog if fetched.queue not in callbacks]
        if cancelled:
            self._backlog = deque(fetched for fetched in self._backlog if fetched.queue in callbacks)
            self._give_back_fetched(cancelled)

    def _give_back_fetched(self, messages: Sequence[Fetched]) -> None:
        self.give_back([fetched.tag for fetched in messages if fetched.tag], "unread")
        for fetched in messages:
            if not fetched.tag:
                self._commands.client.rpush(self._key(fetched.queue), fetched.message)

    # Closing

    def _basic_cancel(self, consumer_tag: str) -> Any:
        result = super()._basic_cancel(consumer_tag)
        self._give_back_cancelled()
        return result

    def close(self) -> None:
        """Send the acks, return the backlog, then close as kombu does."""
        if not self.closed:
            self._closing = True
            self.stop_sending_acks()
            try:
                self._release_all()
            except self.connection_errors as error:
                # Without a connection, the worker's next channel or another worker returns what is leased.
                logger.warning("channel.close_failed", extra={"error": str(error)})
                self._in_poll = None
        try:
            super().close()
        finally:
            # Kombu disconnects before its last commands, which connect again; nobody would close those connections.
            self._disconnect_pools()
            self._close_clients()

    def _release_all(self) -> None:
        if self._in_poll and self._request == "wakeup":
            self._commands.end_wait()
        if self._in_poll:
            with suppress(Empty):
                self._brpop_read()
            self._commands.client.delete(self._own_wakeup_key)
        self.send_acks()
        backlog, self._backlog = list(self._backlog), deque()
        self._give_back_fetched(backlog)
        if self.qos.restore_at_shutdown:
            self.give_back_unsettled()
        self.unregister()

    def _after_fork(self) -> None:
        # The acks and deliveries belong to the parent process.
        self.leased, self._backlog = ConsumerState(), deque()
        self.use_consumer_id(self.leased.consumer_id)
        super()._after_fork()


class Channel(BatchingChannel, stock.Channel):
    """A channel to one server."""

    from_transport_options = stock.Channel.from_transport_options + LEASE_OPTIONS


class SentinelChannel(BatchingChannel, stock.SentinelChannel):
    """A channel to the server that Sentinel selects."""

    sentinel_kwargs = SENTINEL_TIMEOUTS

    from_transport_options = stock.SentinelChannel.from_transport_options + LEASE_OPTIONS
