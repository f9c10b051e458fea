"""The channel: puts messages, takes them in turns, hands them over, gives them back.

A turn is one step at the broker (`scripts/turn.lua`) that carries the acks there and messages here. The event loop
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

from petiole.tasks.transport.commands import PUT, Ack, Command, Source, Steps, Taken
from petiole.tasks.transport.consumer_id import leased, unleased
from petiole.tasks.transport.delivery_log import Ledger
from petiole.tasks.transport.leases import OPTIONS, Leases
from petiole.tasks.transport.message import UNREADABLE, Message
from petiole.tasks.transport.qos import QoS
from petiole.tasks.transport.quarantine import Aside

logger = logging.getLogger(__name__)

# How long a slice of the backlog may hold up the event loop, and how long acks and small credit may wait for company.
SLICE_S = 0.01
GATHER_S = 0.003
LATEST_S = 0.02
MOST_ACKS = 200
# How much one turn takes at most: the broker serves nobody else meanwhile.
MOST_TAKEN = 256
# How long an answer may be late where the options set no socket_timeout.
SOCKET_TIMEOUT_S = 10.0
# How often to look for messages that no bell announces, for how long after the last one.
UNANNOUNCED_POLL_S, UNANNOUNCED_FOR_S = 0.05, 10.0


class Turns(Leases, Aside):
    """What ours changes in a channel of kombu's, plain or by Sentinel."""

    QoS = QoS
    Message = Message

    def __init__(self, *args: Any, **options: Any) -> None:
        self.ledger: Ledger | None = None
        self._ending: dict[str, str] = {}
        self._acks: list[Ack] = []
        self._acks_under_way: list[Ack] = []
        self._acked_at = 0.0
        self._backlog: deque[Taken] = deque()
        self._passed_queues: set[str] = set()
        self._request: Literal["turn", "bell"] | None = None
        self._sources: list[Source] = []
        self._credit_asked = 0
        self._found_nothing = False
        self._bell_was_silent = False
        self._unannounced_until = 0.0
        self._turned_at = 0.0
        self._is_gathering = False
        self._overdue: float | None = None
        super().__init__(*args, **options)

    # Putting

    def _put(self, queue: str, message: Any, _publish_batch: Any = None, **options: Any) -> None:
        if queue in self._expires:
            # Reply queues of remote control: kombu refreshes all their lists, and nobody waits long for them.
            super()._put(queue, message, _publish_batch=_publish_batch, **options)
            return
        priority = self._get_message_priority(message, reverse=False)
        words = (PUT, 2, self._key(self._q_for_pri(queue, priority)), self._bell(queue), dumps(unleased(message)))
        if _publish_batch is not None:
            _publish_batch.add("eval", *words)
            return
        with self.conn_or_acquire() as client:
            client.eval(*words)

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **options: Any) -> None:
        super()._delete(queue, exchange, routing_key, pattern, *args, **options)
        self._steps.client.delete(self._bell(queue))

    # Taking

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:  # noqa: FBT001, FBT002 - kombu's
        """Consume; without acks, what is taken is not recorded."""
        if no_ack:
            self._passed_queues.add(queue)
        else:
            self._passed_queues.discard(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """Take one message now, or None."""
        source = self._source(queue, is_recorded=not no_ack and self.ack_emulation)
        for taken in self._steps.turn([source], 1, []):
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

    def _next_command(self, queues: Sequence[str], timeout: float | None) -> Command | None:
        if self._found_nothing and not self._backlog:
            self._request = "bell"
            return ("BZPOPMIN", *map(self._bell, queues), self._wait_s(timeout))
        credit = self._credit()
        if self._may_gather(credit):
            self._tick_later()
            return None
        self._request = "turn"
        self._turned_at = monotonic()
        self._credit_asked = credit
        self._sources = [self._source(queue) for queue in queues]
        order = "fair" if self.queue_order_strategy == "round_robin" else "strict"
        self._acks_under_way = self._collect_acks()
        return self._steps.turn_command(self._sources, credit, self._acks_under_way, order, self.ledger)

    def _wait_s(self, timeout: float | None) -> float:
        wait_s = timeout or self.brpop_timeout
        return min(wait_s, UNANNOUNCED_POLL_S) if monotonic() < self._unannounced_until else wait_s

    def _credit(self) -> int:
        free = self.qos.can_consume_max_estimate()
        if free is None:
            # Without a limit, a consumer outside a worker takes one message a call, and may never call again.
            free = MOST_TAKEN if self._is_in_loop else 1
        credit = min(free - len(self._backlog), MOST_TAKEN)
        # Half of it at least, or it is not worth while as long as there is something to hand over.
        is_small = 2 * credit < self.qos.prefetch_count
        return 0 if self._backlog and is_small else max(credit, 0)

    def _may_gather(self, credit: int) -> bool:
        is_small = 2 * credit < self.qos.prefetch_count
        is_early = monotonic() - self._turned_at < GATHER_S
        return self._is_in_loop and is_small and is_early and not self._backlog

    @property
    def _is_in_loop(self) -> bool:
        return self.connection is not None and self.connection.loop is not None

    def _tick_later(self) -> None:
        """Have the event loop come by, for what waits for company."""
        if not self._is_gathering:
            self._is_gathering = True
            self.connection.loop.call_later(GATHER_S, self._stop_gathering)

    def _stop_gathering(self) -> None:
        self._is_gathering = False

    def _source(self, queue: str, *, is_recorded: bool | None = None) -> Source:
        if is_recorded is None:
            is_recorded = queue not in self._passed_queues and self.ack_emulation
        lists = [self._key(self._q_for_pri(queue, step)) for step in self.priority_steps]
        return Source(queue, self._bell(queue), lists, is_recorded)

    # Handing over

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answer, and hand over a slice of the backlog. Raises Empty when there was nothing to hand over."""
        answer = self._read_answer(**options)
        if self._request == "bell":
            self._bell_was_silent = not answer
            self._found_nothing = False
        else:
            self._take_in(Steps.read_turn(answer or [], self._sources, self._turned_at))
        if self._closing or not self.hand_over():
            raise Empty
        return True

    def _read_answer(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            answer = self.client.parse_response(connection, "EVALSHA", **options)
        except NoScriptError:
            self._acks.extend(self._acks_under_way)
            self._steps.load_turn()
            answer = None
            self._credit_asked = 0
        except ResponseError:
            self._acks.extend(self._acks_under_way)
            raise
        except self.connection_errors:
            self._acks.extend(self._acks_under_way)
            connection.disconnect()
            raise
        finally:
            self._acks_under_way = []
            self._in_poll = None
            self._flush_brpop_reauth()
        return answer

    def check_is_answered(self) -> None:
        """Raise ConnectionError where the broker owes an answer for too long: a connection can be open and dead.

        Seen twice, since the answer may have come while the event loop was busy elsewhere.
        """
        is_late = self._in_poll and monotonic() - self._brpop_sent_at > self.brpop_timeout + self._patience_s
        if not is_late or self._overdue != self._brpop_sent_at:
            self._overdue = self._brpop_sent_at if is_late else None
            return
        self._acks.extend(self._acks_under_way)
        self._acks_under_way, self._in_poll = [], None
        self.client.connection.disconnect()
        raise redis.ConnectionError(f"the broker has not answered for {self.brpop_timeout + self._patience_s:g} s")

    @property
    def _patience_s(self) -> float:
        return float(self.socket_timeout or SOCKET_TIMEOUT_S)

    def _take_in(self, messages: list[Taken]) -> None:
        if messages and self._bell_was_silent:
            self._unannounced_until = monotonic() + UNANNOUNCED_FOR_S
        self._bell_was_silent = False
        self._found_nothing = not messages and self._credit_asked > 0
        self._backlog.extend(messages)
        for message in messages:
            self._queue_cycle.rotate(message.queue)
        self._give_back_unwanted()

    def hand_over(self) -> bool:
        """Hand over what the backlog holds, for 10 ms in an event loop, or one message without; return whether any."""
        ends_at = monotonic() + SLICE_S
        handed_over = False
        while self._backlog and self.qos.can_consume():
            self._send_what_waits()
            taken = self._backlog.popleft()
            payload = self._decode(taken)
            if payload is None:
                continue
            self.connection._deliver(payload, taken.queue)  # noqa: SLF001 - kombu's way to the consumer
            handed_over = True
            if not self._is_in_loop or monotonic() >= ends_at:
                break
        return handed_over

    def _decode(self, taken: Taken) -> Any:
        is_set_aside = not taken.tag and taken.queue not in self._passed_queues and self.ack_emulation
        with suppress(*UNREADABLE):
            if not is_set_aside:
                return self._read(taken)
        logger.critical("kept bytes that are no message, from queue %s: %.200r", taken.queue, taken.text)
        if not is_set_aside:
            self._steps.set_aside(taken, self._bell(taken.queue))
        return None

    def tags_held(self) -> list[str]:
        """Return the tags of what this channel took and has not settled; other threads may ask."""
        qos: Any = self.qos  # the stubs know only kombu's
        return [*qos.unsettled(), *(taken.tag for taken in list(self._backlog) if taken.tag)]

    def _read(self, taken: Taken) -> Any:
        payload = loads(taken.text)
        if not taken.tag:
            return payload
        return leased(payload, taken.admitted_at if self.ledger else None)

    # Acks

    def take_over(self, previous: Turns) -> None:
        """Send what a channel whose connection was lost had still to mark as handled. This process holds it still."""
        waiting = [*previous._acks_under_way, *previous._collect_acks()]
        self._acks.extend(ack for ack in waiting if ack.delivery)

    def end(self, tag: str, delivery_id: str) -> None:
        """Have the ack of a message, which is the next to come, mark its delivery as handled. Needs a ledger."""
        self._ending[tag] = delivery_id

    def acknowledge(self, tag: str) -> None:
        """Forget a message with the next turn, or now, where no event loop is there to see to it; any thread may."""
        if not self._acks:
            self._acked_at = monotonic()
        self._acks.append(Ack(tag, self._ending.pop(tag, "")))
        # An event loop that waits for a bell does not come by before it rings.
        is_waiting = self._request == "bell" and self._in_poll
        is_alone = not self._is_in_loop or not self._consumers or self._closing
        if is_alone or is_waiting or len(self._acks) >= MOST_ACKS:
            self.send_acks()

    def _send_what_waits(self) -> None:
        """Send the acks that wait too long, as behind a handler that keeps the event loop."""
        if self._acks and monotonic() - self._acked_at > LATEST_S:
            self.send_acks()

    def settle(self) -> None:
        """Send the acks that no turn takes along, before the event loop waits."""
        is_turning = self._in_poll and self._request == "turn"
        if self._acks and not is_turning and not self._is_gathering:
            self.send_acks()

    def send_acks(self) -> None:
        """Send the acks now."""
        acks = self._collect_acks()
        try:
            if acks:
                self._steps.turn([], 0, acks, ledger=self.ledger)
        except self.connection_errors:
            self._acks.extend(acks)
            raise

    def _collect_acks(self) -> list[Ack]:
        # Other threads may add to the list meanwhile.
        count = len(self._acks)
        acks, self._acks[:count] = self._acks[:count], []
        return acks

    def _give_back_unwanted(self) -> None:
        """Put back what the backlog holds of queues that nobody consumes any longer."""
        callbacks = self.connection._callbacks  # noqa: SLF001 - kombu's
        unwanted = [taken for taken in self._backlog if taken.queue not in callbacks]
        if unwanted:
            self._backlog = deque(taken for taken in self._backlog if taken.queue in callbacks)
            self._return_taken(unwanted)

    def _return_taken(self, unwanted: Sequence[Taken]) -> None:
        self.give_back([taken.tag for taken in unwanted if taken.tag], "RPUSH")
        for taken in unwanted:
            if not taken.tag and taken.queue in self._passed_queues:
                self._steps.client.rpush(self._key(taken.queue), taken.text)

    # Leaving

    def _basic_cancel(self, consumer_tag: str) -> Any:
        result = super()._basic_cancel(consumer_tag)
        self._give_back_unwanted()
        return result

    def close(self) -> None:
        """Send the acks, give back what was not handed over, then close as kombu does."""
        if not self.closed:
            self._closing = True
            try:
                self._leave()
            except self.connection_errors as error:
                # Without a connection, what is held goes back when its visibility timeout is over.
                logger.warning("the broker is gone; acks and messages held come back by timeout: %s", error)
        super().close()

    def _leave(self) -> None:
        if self._in_poll and self._request == "bell":
            # Nothing is lost with a bell, and closing need not wait for one.
            self.client.connection.disconnect()
            self._in_poll = None
        if self._in_poll:
            with suppress(Empty):
                self._brpop_read()
        self.send_acks()
        waiting, self._backlog = list(self._backlog), deque()
        self._return_taken(waiting)
        self.retire()

    def _after_fork(self) -> None:
        # The parent's acks and messages are the parent's.
        self._acks, self._acks_under_way, self._backlog = [], [], deque()
        super()._after_fork()


class Channel(Turns, stock.Channel):
    """A channel to one server."""

    from_transport_options = stock.Channel.from_transport_options + OPTIONS


class SentinelChannel(Turns, stock.SentinelChannel):
    """A channel to the server that Sentinel names."""

    from_transport_options = stock.SentinelChannel.from_transport_options + OPTIONS
