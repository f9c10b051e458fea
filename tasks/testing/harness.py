"""EventTestHarness: publish events in a test and wait for their results.

    harness = EventTestHarness([orchestrator, memory, llm, output])
    sent = harness.send_event_and_wait(TextMessageEvent(...), "output.message.sent")

Events are validated, recorded, routed, sent as Celery tasks and delivered by a worker, as in production. Only the
broker (Celery's memory transport) and the store (fakeredis) are in this process. Each harness is isolated.

Time is virtual. While a test waits and no delivery is running, the harness skips time to the next retry or delayed
event, so neither needs waiting for. `advance` moves time by itself, and lets happen what is due until then:

    harness.publish(reminder, delay=timedelta(days=30))
    harness.advance(timedelta(days=29))          # nothing yet
    harness.advance(timedelta(days=1))           # now

`harness.faults` lets deliveries fail, crash, come twice or late (faults.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

from petiole.events.catalog.request import RequestEvent
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import UsageError
from petiole.events.event import Event
from petiole.events.registry import EventRegistry, registry
from petiole.events.subscription_checks import check_known
from petiole.events.topics import TopicTrie
from petiole.tasks.agents import Agent
from petiole.tasks.bus import EventBus
from petiole.tasks.consuming.in_process import InProcess
from petiole.tasks.delivery import DeliveryTask
from petiole.tasks.handling.handler import HandlerFunction
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.publishing.delayed import send_due
from petiole.tasks.requests.requester import PendingResponse, Requester
from petiole.tasks.settings import PREFIX, Settings
from petiole.tasks.stores.history import HISTORY_START, RecordedEvent
from petiole.tasks.testing.faults import Faults
from petiole.tasks.trust.policy import BACKBONE

POLL_S = 0.05
"""How often a test looks for what no settled delivery announces, such as an event of another thread."""

REPLY_POLL_S = 0.005

WAIT_TIMEOUT_S = 15.0
"""How long a test waits by default: longer than a busy machine needs."""

SETTLE_TIMEOUT_S = 30.0
"""How long `advance` waits for the deliveries of one moment to end."""

ValueT = TypeVar("ValueT")


class HarnessBus(EventBus):
    """An in-process bus whose deliveries have faults."""

    def __init__(self, faults: Faults, **options: Any) -> None:
        self._faults = faults
        super().__init__(**options)

    default_publisher = BACKBONE  # a test publishes in the place of any agent

    def _create_in_process(self) -> InProcess:
        return InProcess(self._faults)

    def _register_agent(self, agent: Agent) -> None:
        for handler in agent.handlers.values():
            name = handler.subscription.name
            if name not in self.app.tasks:
                faulty = replace(handler, function=self._faults.wrap(name, handler.function))
                self.register_task(DeliveryTask, name=name, handler=faulty)


class EventTestHarness:
    """A bus and a worker in this process. Add agents before the first publish, which starts the worker.

    Args:
        agents: the agents to include.
        event_registry: the event types.
        settings: the bus's settings.
    """

    def __init__(
        self,
        agents: Iterable[Agent] = (),
        *,
        event_registry: EventRegistry = registry,
        settings: Settings | None = None,
    ) -> None:
        self.faults = Faults(self._subscription_names, lambda: self.now().timestamp())
        settings = settings or _read_settings(_environment())
        self.bus: EventBus = HarnessBus(self.faults, event_registry=event_registry, settings=settings)
        self.bus.store_clock.is_virtual = True
        self._consumed_entries: set[str] = set()
        for agent in agents:
            self.add(agent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, agent: Agent) -> None:
        """Include an agent. Raises UsageError after the first publish."""
        self.bus.include(agent)

    def subscribe(self, pattern: str, handler: HandlerFunction, *, agent: str = "test") -> None:
        """Subscribe a function as a handler of the agent `test`, or of another. Raises as `add`."""
        self.bus.subscribe(pattern, handler, agent=agent)

    def publish(
        self, event: Event, *, delay: float | timedelta | None = None, at: datetime | None = None
    ) -> Publication:
        """Publish an event, as a service does with `publish(event)`."""
        return self.bus.publish.run(event, delay=delay, at=at)

    def delay(self, event: Event) -> None:
        """Publish an event, as a service does with `publish.delay(event)`."""
        self.bus.publish.delay(event)

    def request(
        self,
        request: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,
        returns: type[ValueT] | None = None,
        **parameters: Any,
    ) -> PendingResponse[ValueT]:
        """Send a request, as a service does with `request(…)`. Waiting ends early if no delivery is pending."""
        self.bus.start()
        requester = Requester(self.bus, on_wait=self._has_nothing_pending, slice_s=REPLY_POLL_S)
        return requester(request, responder=responder, timeout=timeout, returns=returns, **parameters)

    @property
    def requester(self) -> Requester:
        """The bus's `request`, for `requester.aio(…)`."""
        return self.bus.request

    def expect(self, pattern: str, within: float = WAIT_TIMEOUT_S) -> Event:
        """Wait for an event that matches and that no earlier call has returned.

        Raises TimeoutError after `within` seconds; UsageError (invalid_pattern) if it matches no known event type.
        """
        check_known(pattern, self.bus.event_registry)
        return self._wait(_build_matcher(pattern), HISTORY_START, pattern, within)

    def send_event_and_wait(self, event: Event, expected_event_type: str, timeout: float = WAIT_TIMEOUT_S) -> Event:
        """Publish an event and wait for a later one of that type in the same flow.

        Raises TimeoutError after `timeout` seconds; UsageError (invalid_pattern) if no such type is known.
        """
        check_known(expected_event_type, self.bus.event_registry)
        before = self.bus.stores.history.last_entry_id()
        sent = self.publish(event).event

        def is_answer(recorded: RecordedEvent) -> bool:
            attributes = recorded.attributes
            return (
                recorded.topic == expected_event_type
                and attributes["correlation_id"] == sent.correlation_id
                and attributes["event_id"] != sent.event_id
            )

        return self._wait(is_answer, before, expected_event_type, timeout)

    def send_through(self, event: Event, timeout: float = WAIT_TIMEOUT_S) -> list[Event]:
        """Publish an event, wait until all deliveries have ended, and return it and all later events.

        Raises TimeoutError after `timeout` seconds.
        """
        before = self.bus.stores.history.last_entry_id()
        self.publish(event)
        self._wait_until(self._is_idle, "deliveries did not end", timeout)
        return [self._parse(recorded) for recorded in self._read_after(before)]

    def now(self) -> datetime:
        """Return the time in this harness."""
        return self.bus.now()

    def advance(self, duration: float | timedelta) -> None:
        """Let time pass, in s: what is due until then happens in order, and its deliveries end.

        Events published afterwards have the later time. Periodic tasks do not run, because beat sends them.

        Raises TimeoutError if deliveries do not end within 30 s; UsageError if the duration is negative.
        """
        self.bus.start()
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
        if seconds < 0:
            raise UsageError(f"time cannot go back by {-seconds:g} s; advance by 0 or more")
        self._settle()
        target = self.now().timestamp() + seconds
        while (due := self._next_due()) is not None and due <= target:
            self._skip_to(due)
            self._settle()
        self._skip_to(target)
        self._settle()

    def published_events(self) -> list[Event]:
        """List all events published so far, in order."""
        return [self._parse(recorded) for recorded in self._read_after(HISTORY_START)]

    def dead_letters(self) -> list[DeadLetter]:
        """List all dead letters so far, oldest first."""
        return self.bus.stores.dead_letters.all()

    def expect_dead_letter(self, within: float = WAIT_TIMEOUT_S) -> DeadLetter:
        """Wait for a dead letter. Raises TimeoutError after `within` seconds."""
        self._wait_until(lambda: bool(self.dead_letters()), "no dead letter", within)
        return self.dead_letters()[-1]

    def close(self) -> None:
        """Stop the worker. Safe to repeat."""
        self.bus.close()

    def _read_after(self, entry_id: str) -> Iterator[RecordedEvent]:
        while page := self.bus.stores.history.read_after(entry_id):
            yield from page
            entry_id = page[-1].entry_id

    def _wait(self, is_match: Callable[[RecordedEvent], bool], after: str, event_type: str, within: float) -> Event:
        matches: list[RecordedEvent] = []

        def has_match() -> bool:
            matches[:] = [
                recorded
                for recorded in self._read_after(after)
                if recorded.entry_id not in self._consumed_entries and is_match(recorded)
            ]
            return bool(matches)

        self._wait_until(has_match, f"no event of type {event_type!r}", within)
        self._consumed_entries.add(matches[0].entry_id)
        return self._parse(matches[0])

    def _wait_until(self, condition: Callable[[], bool], complaint: str, within: float) -> None:
        deadline = time.monotonic() + within
        while True:
            # Looked at before the condition: time is not skipped if what is waited for happened in the last delivery.
            settled, was_still = self.faults.settled, self.bus.is_still()
            if condition():
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{complaint} within {within:g} s")
            if was_still:
                self._skip_time()
            self.faults.wait_for_settled(settled, POLL_S)

    def _is_idle(self) -> bool:
        return self.bus.is_idle() and not self.faults.due_times()

    def _has_nothing_pending(self) -> bool:
        if not self._is_idle():
            self._skip_time()
            return False
        return True

    def _skip_time(self) -> None:
        """Skip the store's clock to the next delayed message, if no delivery is running."""
        due = self._next_due()
        if due is not None and self.bus.is_still():
            self._skip_to(due)

    def _next_due(self) -> float | None:
        """Return when the next delayed or held message is due, in s since 1970; None without one."""
        return min([*self.bus.stores.delayed_messages.due_times().values(), *self.faults.due_times()], default=None)

    def _skip_to(self, moment: float) -> None:
        """Skip time to a moment, in s since 1970, and send what is due. Time that has passed by itself counts."""
        clock = self.bus.store_clock
        # Circuit breakers and rate limits use the store's clock too, so their waits end as well.
        clock.skip(max(0.0, moment - self.now().timestamp()))
        send_due(self.bus, ahead=timedelta(milliseconds=clock.ahead_ms + 1))
        with self.bus.app.connection_for_write() as connection:
            channel: Any = connection.default_channel  # kombu's stubs type only what all transports share
            for held in self.faults.take_due():
                channel._put(held.queue, held.message)  # noqa: SLF001 - as the broker does it

    def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while not self.bus.is_still():
            if time.monotonic() >= deadline:
                raise TimeoutError(f"deliveries did not end within {SETTLE_TIMEOUT_S:g} s; does a handler block?")
            self.faults.wait_for_settled(self.faults.settled, POLL_S)

    def _subscription_names(self) -> list[str]:
        return [subscription.name for agent in self.bus.agents.values() for subscription in agent.subscriptions]

    def _parse(self, recorded: RecordedEvent) -> Event:
        return self.bus.event_registry.read(recorded.document)


@lru_cache
def _read_settings(_: frozenset[tuple[str, str]]) -> Settings:
    """Read the settings once for each environment: that takes as long as a delivery."""
    return Settings()


def _environment() -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in os.environ.items() if name.upper().startswith(PREFIX))


def _build_matcher(pattern: str) -> Callable[[RecordedEvent], bool]:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, pattern)
    return lambda recorded: bool(trie.match(recorded.topic))
