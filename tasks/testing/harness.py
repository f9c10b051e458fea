"""EventTestHarness: publish an event, and see what comes of it.

    harness = EventTestHarness([orchestrator, memory, llm, output])
    sent = harness.send_and_wait(TextMessageEvent(...), "output.message.sent")

Events travel as in production: validated, recorded, routed, sent as Celery tasks, delivered by a worker. Only the
broker (Celery's memory transport) and the store (fakeredis) are in this process. Each harness is a world of its own.

Nobody waits for a retry or for an event that is published later: while a test waits, and nothing else is under way, the
next of them comes at once.
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
    """One process in which events travel. Agents are added before the first publish; it starts by itself."""

    def __init__(
        self,
        agents: Iterable[Agent] = (),
        *,
        event_registry: EventRegistry = registry,
        settings: Settings | None = None,
    ) -> None:
        self.bus = EventBus(event_registry=event_registry, settings=settings)
        self.bus.store_clock.is_virtual = True
        self._taken: set[str] = set()
        for agent in agents:
            self.add(agent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, agent: Agent) -> None:
        """Let an agent take part. Raises UsageError after the first publish."""
        self.bus.include(agent)

    def subscribe(self, pattern: str, handler: HandlerFunction, *, agent: str = "test") -> None:
        """Let a function take part, as a handler of the agent `test` or of another. Raises as `add`."""
        self.bus.subscribe(pattern, handler, agent=agent)

    def publish(
        self, event: Event, *, delay: float | timedelta | None = None, at: datetime | None = None
    ) -> Publication:
        """Publish an event as a service would that calls `publish(event)`."""
        return self.bus.publish.run(event, delay=delay, at=at)

    def delay(self, event: Event) -> None:
        """Publish an event as a service would that calls `publish.delay(event)`."""
        self.bus.publish.delay(event)

    def request(
        self,
        what: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,
        returns: type[ValueT] | None = None,
        **parameters: Any,
    ) -> PendingResponse[ValueT]:
        """Ask as a service would that calls `request(…)`. Where nothing is under way any more, nobody waits on."""
        self.bus.start()
        requester = Requester(self.bus, on_wait=self._has_nothing_pending, slice_s=POLL_S)
        return requester(what, responder=responder, timeout=timeout, returns=returns, **parameters)

    @property
    def requester(self) -> Requester:
        """What stands for `tasks.request` here, for `requester.aio(…)`."""
        return self.bus.request

    def expect(self, pattern: str, within: float = 5.0) -> Event:
        """Wait for an event that matches and was not expected before; seconds. Raises TimeoutError."""
        return self._wait(_build_matcher(pattern), HISTORY_START, pattern, within)

    def send_and_wait(self, event: Event, event_type: str, timeout: float = 5.0) -> Event:
        """Publish an event and wait for one of that type in the same flow, published after it; seconds.

        Raises: TimeoutError that names the type and the limit.
        """
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
        """Publish an event and wait until nothing it set off is under way; seconds. Returns all events since.

        Raises: TimeoutError.
        """
        before = self.bus.stores.history.last_entry_id()
        self.publish(event)
        self._wait_until(self._is_idle, "the end of all deliveries", timeout)
        return [self._parse(recorded) for recorded in self.bus.stores.history.read_after(before)]

    def published_events(self) -> list[Event]:
        """List all events published so far, in order."""
        return [self._parse(recorded) for recorded in self.bus.stores.history.read_after()]

    def dead_letters(self) -> list[DeadLetter]:
        """List the deliveries given up so far, oldest first."""
        return self.bus.stores.dead_letters.all()

    def expect_dead_letter(self, within: float = 5.0) -> DeadLetter:
        """Wait for a delivery to be given up; seconds. Raises TimeoutError."""
        self._wait_until(lambda: bool(self.dead_letters()), "a dead letter", within)
        return self.dead_letters()[-1]

    def close(self) -> None:
        """Stop. Safe to repeat."""
        self.bus.close()

    def _wait(self, matches: Callable[[RecordedEvent], bool], after: str, wanted: str, within: float) -> Event:
        found: list[RecordedEvent] = []

        def is_there() -> bool:
            recent = self.bus.stores.history.read_after(after)
            found[:] = [each for each in recent if each.entry_id not in self._taken and matches(each)]
            return bool(found)

        self._wait_until(is_there, f"an event of type {wanted!r}", within)
        self._taken.add(found[0].entry_id)
        return self._parse(found[0])

    def _wait_until(self, condition: Callable[[], bool], wanted: str, within: float) -> None:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{wanted} did not come within {within:g} s")
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
        """Let what waits for its time come now, the next first, where nothing else is under way."""
        due = self.bus.stores.delayed_messages.due_times().values()
        if due and self.bus.is_still():
            skipped_s = max(0.0, min(due) - time.time())
            # Breakers and budgets go by the store's clock: what waits for them finds its time come.
            self.bus.store_clock.skip(skipped_s)
            send_due(self.bus, ahead=timedelta(seconds=skipped_s, milliseconds=1))

    def _parse(self, recorded: RecordedEvent) -> Event:
        return self.bus.event_registry.parse(recorded.document)


def _build_matcher(pattern: str) -> Callable[[RecordedEvent], bool]:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, pattern)
    return lambda recorded: bool(trie.match(recorded.topic))
