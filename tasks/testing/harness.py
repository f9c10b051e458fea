"""EventTestHarness: publish events in a test and wait for their results.

    harness = EventTestHarness([orchestrator, memory, llm, output])
    sent = harness.send_and_wait(TextMessageEvent(...), "output.message.sent")

Events are validated, recorded, routed, sent as Celery tasks and delivered by a worker, as in production. Only the
broker (Celery's memory transport) and the store (fakeredis) are in this process. Each harness is isolated.

Retries and delayed events need no waiting: while a test waits and no delivery is running, the harness skips time to the
next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from petiole.events.catalog.request import RequestEvent
from petiole.events.dead_letter import DeadLetter
from petiole.events.event import Event
from petiole.events.registry import EventRegistry, registry
from petiole.events.subscription_checks import check_known
from petiole.events.topics import TopicTrie
from petiole.tasks.agents import Agent
from petiole.tasks.bus import EventBus
from petiole.tasks.handling.handler import HandlerFunction
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.publishing.delayed import send_due
from petiole.tasks.requests.requester import PendingResponse, Requester
from petiole.tasks.settings import Settings
from petiole.tasks.stores.history import HISTORY_START, RecordedEvent

POLL_S = 0.005

ValueT = TypeVar("ValueT")


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
        self.bus = EventBus(event_registry=event_registry, settings=settings)
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
        requester = Requester(self.bus, on_wait=self._has_nothing_pending, slice_s=POLL_S)
        return requester(request, responder=responder, timeout=timeout, returns=returns, **parameters)

    @property
    def requester(self) -> Requester:
        """The bus's `request`, for `requester.aio(…)`."""
        return self.bus.request

    def expect(self, pattern: str, within: float = 5.0) -> Event:
        """Wait for an event that matches and that no earlier call has returned.

        Raises TimeoutError after `within` seconds; UsageError (invalid_pattern) if it matches no known event type.
        """
        check_known(pattern, self.bus.event_registry)
        return self._wait(_build_matcher(pattern), HISTORY_START, pattern, within)

    def send_and_wait(self, event: Event, event_type: str, timeout: float = 5.0) -> Event:
        """Publish an event and wait for a later one of that type in the same flow.

        Raises TimeoutError after `timeout` seconds; UsageError (invalid_pattern) if no such type is known.
        """
        check_known(event_type, self.bus.event_registry)
        before = self.bus.stores.history.last_entry_id()
        sent = self.publish(event).event

        def is_answer(recorded: RecordedEvent) -> bool:
            attributes = recorded.attributes
            return (
                recorded.topic == event_type
                and attributes["correlation_id"] == sent.correlation_id
                and attributes["event_id"] != sent.event_id
            )

        return self._wait(is_answer, before, event_type, timeout)

    def send_through(self, event: Event, timeout: float = 5.0) -> list[Event]:
        """Publish an event, wait until all deliveries have ended, and return it and all later events.

        Raises TimeoutError after `timeout` seconds.
        """
        before = self.bus.stores.history.last_entry_id()
        self.publish(event)
        self._wait_until(self._is_idle, "deliveries did not end", timeout)
        return [self._parse(recorded) for recorded in self.bus.stores.history.read_after(before)]

    def published_events(self) -> list[Event]:
        """List all events published so far, in order."""
        return [self._parse(recorded) for recorded in self.bus.stores.history.read_after()]

    def dead_letters(self) -> list[DeadLetter]:
        """List all dead letters so far, oldest first."""
        return self.bus.stores.dead_letters.all()

    def expect_dead_letter(self, within: float = 5.0) -> DeadLetter:
        """Wait for a dead letter. Raises TimeoutError after `within` seconds."""
        self._wait_until(lambda: bool(self.dead_letters()), "no dead letter", within)
        return self.dead_letters()[-1]

    def close(self) -> None:
        """Stop the worker. Safe to repeat."""
        self.bus.close()

    def _wait(self, is_match: Callable[[RecordedEvent], bool], after: str, event_type: str, within: float) -> Event:
        matches: list[RecordedEvent] = []

        def has_match() -> bool:
            recent = self.bus.stores.history.read_after(after)
            matches[:] = [
                recorded
                for recorded in recent
                if recorded.entry_id not in self._consumed_entries and is_match(recorded)
            ]
            return bool(matches)

        self._wait_until(has_match, f"no event of type {event_type!r}", within)
        self._consumed_entries.add(matches[0].entry_id)
        return self._parse(matches[0])

    def _wait_until(self, condition: Callable[[], bool], complaint: str, within: float) -> None:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{complaint} within {within:g} s")
            # Looked at again once nothing runs: what is waited for may have happened since, and is not to expire.
            if self.bus.is_still() and not condition():
                self._skip_time()
            time.sleep(POLL_S)

    def _is_idle(self) -> bool:
        return self.bus.is_idle()

    def _has_nothing_pending(self) -> bool:
        if not self._is_idle():
            self._skip_time()
            return False
        return True

    def _skip_time(self) -> None:
        """Skip the store's clock to the next delayed message, if no delivery is running."""
        due = self.bus.stores.delayed_messages.due_times().values()
        if due and self.bus.is_still():
            skipped_s = max(0.0, min(due) - time.time())
            # Circuit breakers and rate limits use the store's clock too, so their waits end as well.
            self.bus.store_clock.skip(skipped_s)
            send_due(self.bus, ahead=timedelta(seconds=skipped_s, milliseconds=1))

    def _parse(self, recorded: RecordedEvent) -> Event:
        return self.bus.event_registry.read(recorded.document)


def _build_matcher(pattern: str) -> Callable[[RecordedEvent], bool]:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, pattern)
    return lambda recorded: bool(trie.match(recorded.topic))
