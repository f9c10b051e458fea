"""What `petiole doctor` looks at, read once from the servers, the workers and this process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from petiole.events.schemas import fingerprints_of_own_types
from petiole.events.subscriptions import Subscription
from petiole.tasks.broker.queue_stats import queue_depths, queue_lags
from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.tasks.operations.worker_report import REPORT_COMMAND, build_report
from petiole.tasks.periodic import find_beats
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.cluster_lifecycle import Cluster
from petiole.tasks.stores.parked import ParkedDeliveries
from petiole.workers.cli._handlers import find_without_handler
from petiole.workers.settings import unknown_settings

_REPORT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A Redis server: its `INFO`, and its setting `appendfsync`; None if this account may not read it."""

    name: str
    info: Mapping[str, Any]
    appendfsync: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """A process's report (tasks/operations/worker_report.py)."""

    name: str
    versions: Mapping[str, str]
    settings: Mapping[str, object]
    clock_ahead_s: float


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """A system at one moment.

    Attributes:
        here: the report of this process.
        workers: the reports of the workers that replied.
        beats: the processes that send periodic tasks; None if the server does not list its clients.
        uptime_s: how long the system has been running; 0 if it is stopped.
        without_handler: the subscriptions whose handlers no running worker has.
        depths: deliveries waiting, by queue, also of queues without a subscription.
        lags_s: the age of the oldest delivery that waits, by queue; only Redis has it.
        in_flight: the deliveries that workers have, by queue; only Redis has it.
        topics: the event types that this process knows.
        schemas: the fingerprints of own event types, by process and topic.
    """

    servers: tuple[ServerFacts, ...]
    driver: str
    here: ProcessReport
    cluster: Cluster = field(default_factory=Cluster)
    workers: tuple[ProcessReport, ...] = ()
    beats: tuple[str, ...] | None = None
    uptime_s: float = 0.0
    subscriptions: tuple[Subscription, ...] = ()
    without_handler: frozenset[str] = frozenset()
    depths: Mapping[str, int] = field(default_factory=dict)
    lags_s: Mapping[str, float] = field(default_factory=dict)
    in_flight: Mapping[str, int] = field(default_factory=dict)
    parked: tuple[ParkedDeliveries, ...] = ()
    circuits: tuple[Circuit, ...] = ()
    topics: tuple[str, ...] = ()
    schemas: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unknown_settings: tuple[str, ...] = ()


def read_facts(bus: BusRuntime) -> SystemFacts:
    """Read everything. Changes nothing. Raises RedisError, PetioleError if a server does not reply."""
    cluster = bus.stores.cluster_membership.read()
    _, subscriptions = bus.stores.directory.read()
    depths, lags_s = _read_queues(bus, subscriptions)
    return SystemFacts(
        servers=tuple(read_server_facts(bus)),
        driver=bus.driver,
        here=_parse_report("this process", build_report(bus)),
        cluster=cluster,
        workers=tuple(_read_reports(bus, cluster)),
        beats=find_beats(bus),
        uptime_s=bus.now().timestamp() - cluster.started_at if cluster.state == "started" else 0.0,
        subscriptions=tuple(subscriptions),
        without_handler=frozenset(find_without_handler(bus, subscriptions)),
        depths=depths,
        lags_s=lags_s,
        in_flight=bus.stores.deliveries.in_flight() if bus.publishes_atomically else {},
        parked=tuple(bus.stores.parked.read()),
        circuits=tuple(bus.stores.circuits.all()),
        topics=tuple(event_type.topic for event_type in bus.event_registry.all()),
        schemas=_read_fingerprints(bus, cluster),
        unknown_settings=tuple(unknown_settings()),
    )


def read_server_facts(bus: BusRuntime) -> Iterator[ServerFacts]:
    """Read the facts of the state store, and of the broker if that is another Redis."""
    yield _read_server(bus.state_store_name, bus.redis)
    if bus.driver == "redis" and bus.has_own_state_store:
        with bus.app.connection_for_read() as connection, connection.channel() as channel:
            redis_channel: Any = channel  # kombu's stubs type only what all transports share
            yield _read_server("the broker", redis_channel.client)


def _read_server(name: str, client: Redis) -> ServerFacts:
    info: Any = client.info()
    try:
        values: Any = client.config_get("appendfsync")
    except ResponseError:  # managed servers forbid CONFIG
        return ServerFacts(name, info)
    return ServerFacts(name, info, values.get("appendfsync"))


def _read_reports(bus: BusRuntime, cluster: Cluster) -> Iterator[ProcessReport]:
    nodes = sorted({worker.node for worker in cluster.workers.values()})
    if not nodes:
        return
    replies: Any = bus.app.control.broadcast(
        REPORT_COMMAND, destination=nodes, reply=True, timeout=_REPORT_TIMEOUT_S, limit=len(nodes)
    )
    for reply in replies or ():
        for node, report in reply.items():
            # A worker of an older version answers that it does not know the command.
            known = report if "versions" in report else {"versions": {}, "settings": {}, "clock_ahead_s": 0.0}
            yield _parse_report(node, known)


def _read_fingerprints(bus: BusRuntime, cluster: Cluster) -> dict[str, dict[str, str]]:
    of_workers = bus.stores.schema_fingerprints.read(cluster.workers.keys())
    by_node = {cluster.workers[worker_id].node: each for worker_id, each in of_workers.items()}
    return {"this process": fingerprints_of_own_types(bus.event_registry), **by_node}


def _parse_report(name: str, report: Mapping[str, Any]) -> ProcessReport:
    return ProcessReport(name, report["versions"], report["settings"], float(report["clock_ahead_s"]))


def _read_queues(bus: BusRuntime, subscriptions: list[Subscription]) -> tuple[dict[str, int], dict[str, float]]:
    queues = sorted({PUBLISH_QUEUE, *(subscription.queue for subscription in subscriptions), *_existing_queues(bus)})
    with bus.app.connection_for_read() as connection:
        depths = queue_depths(bus, connection, queues)
        return depths, queue_lags(bus, connection, [queue for queue in queues if depths[queue]])


def _existing_queues(bus: BusRuntime) -> set[str]:
    """Find the queues with deliveries on our transport; other brokers list none."""
    prefix = f"{bus.settings.key_prefix}:queues:"
    lists = Counter(re.sub(r":\d$", "", str(key)[len(prefix) :]) for key in bus.redis.scan_iter(f"{prefix}*:[0369]"))
    return set(lists)
