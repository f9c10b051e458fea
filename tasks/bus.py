"""EventBus: an event bus in a Celery app.

    bus = EventBus(celery_app)        the app's broker carries the events, beside the app's own tasks
    bus.include(agent)
    bus.publish.delay(event)

    with EventBus() as bus:           in this process: memory transport, in-process store, one worker thread
        bus.subscribe("input.*", print)
        bus.publish(event)
        bus.wait()

`publish`, `request` and the other functions of `petiole` belong to the default bus. Its app reads PETIOLE_BROKER_URL
and, if there is one, a `celeryconfig` module.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

import click
from celery import Celery, bootsteps, signals
from celery.local import PromiseProxy
from pydantic import Field

from petiole.events.arguments import check_argument, checks_arguments, instance_of
from petiole.events.errors import UsageError, unknown_queue
from petiole.events.event import Event
from petiole.events.registry import EventRegistry, registry
from petiole.events.subscription_checks import check_subscription
from petiole.tasks.broker.topology import PUBLISH_QUEUE, EventAMQP, EventQueues
from petiole.tasks.celery import (
    add_unset,
    configure,
    configure_default,
    conflicts,
    make_default_app,
    private_app,
    use_broker,
)
from petiole.tasks.periodic import MetricsTask, PeriodicTask, TickTask, schedule
from petiole.tasks.publication import PublishTask
from petiole.tasks.publication import publish_many as publish_many_on
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.publishing.document import Document
from petiole.tasks.runtime import BusRuntime, BusTask, bus_of, included_agents, set_default_bus
from petiole.tasks.sessions.expiry import SessionExpiryTask, sweep_interval_s
from petiole.tasks.transport.address import result_backend

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

    from petiole.tasks.agents import Agent
    from petiole.tasks.consuming.in_process import InProcess
    from petiole.tasks.handling.handler import HandlerFunction
    from petiole.tasks.requests.requester import Requester
    from petiole.tasks.settings import Settings
    from petiole.tasks.streaming.reader import ResponseStreamReader

log = logging.getLogger(__name__)

_AMQP = f"{EventAMQP.__module__}:{EventAMQP.__qualname__}"


class EventBus(BusRuntime):
    """An event bus in a Celery app, or in this process alone.

    The bus adds its tasks, queues, consumer, transport and beat entries to the app. The app's own tasks, queues and
    settings stay unchanged.

    Args:
        app: the Celery app whose broker carries the events; without one, the bus runs in this process.
        event_registry: the event types that this bus accepts.
        settings: the limits and addresses; by default read from the environment when they are first used.

    Raises:
        UsageError: the app already has a bus, or an `amqp_cls` of its own.
    """

    _queues: tuple[str, ...] = (PUBLISH_QUEUE,)
    _may_have_other_queues = True
    has_worker = False
    """Whether a worker of the app runs in this process."""

    @checks_arguments(
        app=instance_of(Celery) | None,
        event_registry=instance_of(EventRegistry),
    )
    def __init__(
        self,
        app: Celery | None = None,
        *,
        event_registry: EventRegistry = registry,
        settings: Settings | None = None,
    ) -> None:
        if settings is not None:
            from petiole.tasks.settings import Settings

            check_argument("EventBus.settings", settings, instance_of(Settings))
        self._in_process = self._create_in_process() if app is None else None
        app = private_app() if app is None else app
        _require_stock_amqp(app)
        super().__init__(
            app,
            event_registry=event_registry,
            settings=settings,
            state=self._in_process.state if self._in_process else None,
        )
        self._periodic: dict[type[PeriodicTask], float] = {}
        app.amqp_cls = _AMQP
        self.app.steps["worker"].add(ConfigurationCheck)
        self.app.steps["worker"].add("petiole.tasks.consuming.probes:WorkerProbes")  # loaded by workers only
        self.app.on_after_configure.connect(self._configure, weak=False)
        self.app.on_after_finalize.connect(self._register, weak=False)
        if self._in_process is None:
            if "flower.views" in sys.modules:  # in Flower's process, and of Celery's commands where it is installed
                from petiole.tasks.operations.flower import extend_flower

                extend_flower(self)
            # Celery logs and drops errors raised in the two signals above. In a worker and in beat, this signal raises.
            signals.import_modules.connect(self._configure, sender=app, weak=False)
        if app.configured:  # type: ignore[attr-defined]  # the stubs leave it out
            self._configure()
        if app.finalized:  # type: ignore[attr-defined]  # as above
            self._register()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def include(self, *agents: Agent) -> None:
        """Include agents in this process: a worker of the app consumes their queues.

        Raises:
            UsageError: another agent has the same name, a worker already runs, or a subscription is invalid.
        """
        for agent in agents:
            self._include(agent)

    def subscribe(self, pattern: str, handler: HandlerFunction, *, agent: str = "subscriber", **options: Any) -> None:
        """Subscribe a function to the events that match a pattern; options and errors are those of `Agent.on`."""
        from petiole.tasks.agents import Agent

        # Checked on an agent of its own first: a refused handler must not stay in an included agent.
        subscriber = Agent(agent)
        subscriber.on(pattern, **options)(handler)
        self._check_event_types(subscriber)
        if known := included_agents(self).get(agent):
            known.on(pattern, **options)(handler)
            subscriber = known
        self._include(subscriber)

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents that this process includes, by name."""
        return included_agents(self)

    @cached_property
    def publish(self) -> PublishTask:
        """The task and the function that publishes an event."""
        self.start()
        task = self.app.tasks[PublishTask.name]
        if not isinstance(task, PublishTask):
            raise UsageError(_name_conflict(PublishTask.name))
        return task

    def publish_many(self, events: Iterable[Event | Document]) -> list[Publication]:
        """Publish several events in order; see `publish_many` in publication.py."""
        self.start()
        return publish_many_on(self, events)

    @cached_property
    def request(self) -> Requester:
        """The callable that sends a request: `request(…)`, `request.aio(…)`."""
        from petiole.tasks.requests.requester import Requester

        self.start()
        return Requester(self)

    @cached_property
    def read_answer(self) -> ResponseStreamReader:
        """The callable that reads a response while it is generated."""
        from petiole.tasks.streaming.reader import ResponseStreamReader

        return ResponseStreamReader(self)

    def add_periodic_task(self, task: type[PeriodicTask], interval_s: float) -> None:
        """Have beat send a task every `interval_s` seconds, or never for 0. Call it before the app is configured."""
        self._periodic[task] = interval_s

    def use_broker(self, url: str) -> None:
        """Use another broker from now on: `redis://…` or `amqp://…`."""
        use_broker(self.app.conf, url)
        add_unset(self.app.conf, {"result_backend": result_backend(url)})
        for name in ("driver", "publishes_atomically", "stores", "redis"):
            vars(self).pop(name, None)

    def check_configuration(self) -> None:
        """Raise UsageError if a setting of the app or of a server would break a guarantee; it names the remedy."""
        _ = self.settings, self.redactor  # raises UsageError for an invalid value
        tasks = [task for task in self.app.tasks.values() if isinstance(task, BusTask)]
        own = {task.name for task in tasks if task.bus is self}
        problems = [_name_conflict(name) for name in sorted(self._task_names() - own)]
        if self._in_process is None:
            self.check_addresses()
            problems += conflicts(self.app, tasks, [*self._queues, *self.agents])
        problems += self.event_registry.check_upcasters()
        if problems:
            listed = "\n  ".join(dict.fromkeys(problems))
            raise UsageError(f"no worker starts, because events could be lost:\n  {listed}")
        if self._in_process is None:
            # Here, because publishers need nothing of what consumes.
            from petiole.tasks.consuming.server_check import check_servers

            check_servers(self)

    def check_worker_queues(self) -> None:
        """Raise UsageError (unknown_queue) if `-Q` or `-X` of a worker names no queue of this app.

        An app with tasks of its own may have queues that nobody declares, so such an app's worker only logs it.
        """
        known = [PUBLISH_QUEUE, *self.agents]
        queues = cast("EventQueues", self.app.amqp.queues)
        for name, option in queues.unknown.items():
            error = unknown_queue(option, name, next(iter(difflib.get_close_matches(name, known, n=1)), None))
            if not self._may_have_other_queues:
                raise error
            log.warning("worker.unknown_queue: %s", error)

    def connect_async(self) -> AsyncRedis:
        """Create a client of the state store for the running asyncio loop. Raises NotConfigured."""
        return self._in_process.connect_async() if self._in_process else super().connect_async()

    @checks_arguments(timeout_s=Annotated[float, Field(ge=0)])
    def wait(self, timeout_s: float = 10.0) -> None:
        """Wait until no message of an in-process bus is queued, delayed or being handled.

        Raises:
            TimeoutError: some are left after the timeout.
            UsageError: the bus has a broker, where other processes handle messages, too.
        """
        if self._in_process is None:
            raise UsageError("only an in-process bus, EventBus(), can wait until all messages are handled")
        deadline = time.monotonic() + timeout_s
        while not self.is_idle():
            if time.monotonic() >= deadline:
                raise TimeoutError(f"messages were queued, delayed or being handled after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def is_still(self) -> bool:
        """Return whether no message of an in-process bus is queued or being handled; delayed messages do not count."""
        return self._in_process is not None and self._in_process.traffic.is_idle()

    def is_idle(self) -> bool:
        """Return whether no message of an in-process bus is queued, delayed or being handled."""
        if self._in_process is None:
            return False
        traffic = self._in_process.traffic
        settled = traffic.settled
        # Twice: a delayed message that is sent between the looks is not delayed any more, and was not queued before.
        is_empty = self.is_still() and not self.stores.delayed_messages.count() and self.is_still()
        return is_empty and traffic.settled == settled

    def start(self) -> None:
        """Start the worker of an in-process bus; the first publish does so, too. Safe to repeat."""
        if self._in_process is not None:
            self.app.finalize()
            self._in_process.start(self)

    def close(self) -> None:
        """Stop the worker of an in-process bus, and close the connections. Safe to repeat."""
        if self._in_process is not None:
            self._in_process.stop()
        self.app.close()

    def _create_in_process(self) -> InProcess:
        from petiole.tasks.consuming.in_process import InProcess

        return InProcess()

    def _include(self, agent: Agent) -> None:
        from petiole.tasks.agents import Agent

        check_argument("EventBus.include", agent, instance_of(Agent))
        agents = included_agents(self)
        if agents.get(agent.name, agent) is not agent:
            raise UsageError(f"this bus has another agent named {agent.name!r}; rename one")
        if self.has_worker or (self._in_process is not None and self._in_process.is_running):
            raise UsageError("a worker already runs; include agents before it starts, or before the first publish")
        # Raises UsageError (invalid_subscription) here instead of in the worker.
        _ = agent.subscriptions
        self._check_event_types(agent)
        agents[agent.name] = agent
        vars(self.app).pop("amqp", None)
        if self.app.finalized:  # type: ignore[attr-defined]  # the stubs leave it out
            self._register_agent(agent)

    def _check_event_types(self, agent: Agent) -> None:
        for handler in agent.handlers.values():
            check_subscription(handler.subscription, self.event_registry, gathered_by=handler.gathered_by)

    def _register(self, **_: object) -> None:
        for task in self._own_tasks():
            if task.name not in self.app.tasks:
                self.register_task(task)
        for agent in included_agents(self).values():
            self._register_agent(agent)

    def _register_agent(self, agent: Agent) -> None:
        from petiole.tasks.delivery import DeliveryTask

        for handler in agent.handlers.values():
            if handler.subscription.name not in self.app.tasks:
                self.register_task(DeliveryTask, name=handler.subscription.name, handler=handler)

    def _own_tasks(self) -> tuple[type[BusTask], ...]:
        return (PublishTask, TickTask, MetricsTask, SessionExpiryTask, *self._periodic)

    def _task_names(self) -> set[str]:
        handlers = {name for agent in self.agents.values() for name in agent.handlers}
        return handlers | {task.name for task in self._own_tasks()}

    def _configure(self, **_: object) -> None:
        """Add the settings that a bus needs: when the app reads its own, and again when a worker or beat starts."""
        if self._in_process is not None:
            self._in_process.configure(self.app.conf)
            return
        intervals = {
            TickTask: self.settings.tick_interval_s,
            MetricsTask: self.settings.metrics_interval_s,
            SessionExpiryTask: sweep_interval_s(self.settings),
        }
        configure(self.app.conf, schedule({**intervals, **self._periodic}))


def _name_conflict(name: str) -> str:
    return f"the app has a task {name!r} of its own, and Petiole has a task of that name; rename the app's task"


_POLL_S = 0.005


class ConfigurationCheck(bootsteps.Step):
    """Stop a worker from starting with a configuration in which events could be lost."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        bus = bus_of(worker.app)
        if not isinstance(bus, EventBus):
            return
        try:
            bus.check_configuration()
            bus.check_worker_queues()
        except UsageError as error:
            # The command line shows the message without a traceback.
            if click.get_current_context(silent=True) is None:
                raise
            raise click.ClickException(str(error)) from error
        bus.has_worker = True
        # Registers the remote-control command of `petiole doctor`; only a worker needs it.
        importlib.import_module("petiole.tasks.operations.worker_report")
        from celery.concurrency.prefork import TaskPool as ProcessPool

        bus.forking_pid = os.getpid() if issubclass(worker.pool_cls, ProcessPool) else None
        # Before the pool forks: a signal that ends a process while it builds a type would leave the type broken.
        bus.event_registry.all()


def _require_stock_amqp(app: Celery) -> None:
    if app.amqp_cls == _AMQP:
        raise UsageError(f"the Celery app {app.main!r} has an event bus already; an app can have one")
    if app.amqp_cls != Celery.amqp_cls:
        raise UsageError(
            f"the Celery app {app.main!r} has an amqp_cls of its own ({app.amqp_cls}); a bus needs Celery's"
        )


class _DefaultBus(EventBus):
    # The app has no tasks of its own, so its default queue may be the queue of `publish.delay`.
    _queues = ()
    _may_have_other_queues = False

    def _configure(self, **_: object) -> None:
        configure_default(self.app.conf, self.settings)
        super()._configure()


default_bus = _DefaultBus(make_default_app())
set_default_bus(default_bus)

publish: PublishTask = cast(
    "PublishTask", PromiseProxy(lambda: default_bus.publish, name="publish", __doc__=PublishTask.__doc__)
)
publish_many: Callable[[Iterable[Event | Document]], list[Publication]] = default_bus.publish_many

if TYPE_CHECKING:
    request: Requester
    read_answer: ResponseStreamReader


def __getattr__(name: str) -> object:
    if name in {"request", "read_answer"}:
        return getattr(default_bus, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
