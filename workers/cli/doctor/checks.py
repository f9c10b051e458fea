"""The checks of `petiole doctor`: from the facts of a system follow the findings. Pure."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from petiole.events.topics import TopicTrie
from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.workers.cli.doctor.facts import ServerFacts, SystemFacts

MAX_CLOCK_DIFFERENCE_S = 2.0
MAX_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A misconfiguration: its code, what is wrong, and what to do."""

    code: str
    problem: str
    remedy: str


def find_problems(facts: SystemFacts) -> list[Diagnosis]:
    """Return the findings of all checks; none for a healthy system."""
    return [finding for check in _CHECKS for finding in check(facts)]


def check_server(server: ServerFacts) -> Iterator[Diagnosis]:
    """Check one Redis server: role, eviction, persistence, memory."""
    info, name = server.info, server.name
    if info.get("role") in {"slave", "replica"}:
        yield Diagnosis("replica", f"{name} is a replica and refuses writes", "use the address of its primary")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Diagnosis(
            "eviction",
            f"{name} evicts keys when its memory is full (maxmemory-policy {policy}): events would be lost",
            "set maxmemory-policy noeviction at the server",
        )
    yield from _check_persistence(server)
    limit = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    used = int(info.get("used_memory", 0))
    if limit and used > MAX_MEMORY_SHARE * limit:
        yield Diagnosis(
            "memory",
            f"{name} uses {used / limit:.0%} of its memory ({used:,} of {limit:,} bytes); when it is full, it refuses "
            "to publish",
            "raise maxmemory, or lower PETIOLE_MAX_HISTORY_EVENTS and PETIOLE_MAX_DEAD_LETTERS",
        )


def _check_persistence(server: ServerFacts) -> Iterator[Diagnosis]:
    info, name = server.info, server.name
    if not int(info.get("aof_enabled", 1)):
        yield Diagnosis(
            "persistence",
            f"{name} writes no append-only file: a restart loses the events since its last snapshot, if it makes any",
            "set appendonly yes at the server",
        )
    elif server.appendfsync == "no":
        yield Diagnosis(
            "fsync",
            f"{name} leaves writing to disk to its host (appendfsync no): a crash loses about 30 s of events",
            "set appendfsync everysec, or always, at the server",
        )
    for status in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(status, "ok") != "ok":
            yield Diagnosis(
                "disk", f"{name} could not write to disk ({status}: {info[status]})", "free its disk; see its log"
            )


def _check_servers(facts: SystemFacts) -> Iterator[Diagnosis]:
    for server in facts.servers:
        yield from check_server(server)


def _check_transport(facts: SystemFacts) -> Iterator[Diagnosis]:
    if facts.driver != "redis":
        return
    for process in (facts.here, *facts.workers):
        if process.settings.get("transport") == "kombu":
            yield Diagnosis(
                "transport",
                f"{process.name} uses kombu's own transport, which loses the messages of killed workers",
                "unset PETIOLE_TRANSPORT where it starts",
            )


def _check_clocks(facts: SystemFacts) -> Iterator[Diagnosis]:
    for process in (facts.here, *facts.workers):
        ahead_s = process.clock_ahead_s
        if abs(ahead_s) > MAX_CLOCK_DIFFERENCE_S:
            direction = "ahead of" if ahead_s > 0 else "behind"
            yield Diagnosis(
                "clock",
                f"the clock of {process.name} is {abs(ahead_s):,.1f} s {direction} the state store's",
                "synchronize the clocks of both hosts (NTP)",
            )


def _check_beats(facts: SystemFacts) -> Iterator[Diagnosis]:
    if facts.beats is None:
        return
    if len(facts.beats) > 1:
        yield Diagnosis(
            "two_beats",
            f"{len(facts.beats)} beats run ({', '.join(facts.beats)}): each sends your own periodic tasks",
            "run one: stop the others, or use celery-redbeat",
        )
    intervals = [float(str(facts.here.settings[name])) for name in ("tick_interval_s", "metrics_interval_s")]
    shortest_s = min((interval for interval in intervals if interval), default=None)
    # A beat is seen from its first task on, one interval after its start.
    if not facts.beats and shortest_s is not None and facts.uptime_s > 3 * shortest_s:
        yield Diagnosis(
            "no_beat",
            "no beat runs, so there are no ticks, and sessions do not end",
            "start one: celery -A workers beat; or set PETIOLE_TICK_INTERVAL_S=0 and PETIOLE_METRICS_INTERVAL_S=0",
        )


def _check_workers(facts: SystemFacts) -> Iterator[Diagnosis]:
    cluster, replied = facts.cluster, {worker.name for worker in facts.workers}
    if cluster.is_closed:
        yield Diagnosis("closed", "the system was shut down and refuses events", "start a worker: petiole up")
    if not replied:
        yield Diagnosis("no_worker", "no worker replies, so nothing is handled", "start one: petiole up")
        return
    for node in sorted({worker.node for worker in cluster.workers.values()} - replied):
        yield Diagnosis(
            "silent_worker",
            f"the worker {node} is registered and does not reply",
            f"look at its process and log; if it hangs, restart it: petiole alive {node}",
        )
    for agent, override in sorted(cluster.overrides.items()):
        yield Diagnosis(
            "agent_paused",
            f"the agent {agent} is {override} by an operator; {facts.depths.get(agent, 0):,} deliveries wait",
            f"petiole agents resume {agent}",
        )


def _check_queues(facts: SystemFacts) -> Iterator[Diagnosis]:
    subscribed = {subscription.queue for subscription in facts.subscriptions}
    for queue, depth in facts.depths.items():
        if queue not in subscribed and queue != PUBLISH_QUEUE and depth:
            yield Diagnosis(
                "orphan_queue",
                f"{depth:,} deliveries wait in the queue {queue}, to which nothing subscribes",
                f"start a worker that has the agent {queue}, or remove them: redis-cli DEL on its lists",
            )
    replied = {worker.name for worker in facts.workers}
    served = {agent for each in facts.cluster.workers.values() if each.node in replied for agent in each.agents}
    if facts.workers:
        for queue in sorted(subscribed - served):
            yield Diagnosis(
                "unserved",
                f"the agent {queue} has subscriptions and no worker; {facts.depths.get(queue, 0):,} deliveries wait",
                f"start a worker with it (-Q {queue}, PETIOLE_AGENTS), or withdraw its subscriptions: "
                "petiole subscriptions withdraw",
            )


def _check_stalls(facts: SystemFacts) -> Iterator[Diagnosis]:
    timeout_s = float(str(facts.here.settings["stall_timeout_s"]))
    for queue, lag_s in facts.lags_s.items():
        serving = [worker for worker in facts.cluster.workers.values() if queue in worker.agents]
        is_idle = not any(facts.in_flight.get(agent) for worker in serving for agent in worker.agents)
        if lag_s > timeout_s and serving and is_idle and queue not in facts.cluster.overrides:
            nodes = ", ".join(sorted(worker.node for worker in serving))
            yield Diagnosis(
                "stalled",
                f"the oldest of {facts.depths[queue]:,} deliveries of {queue} has waited {lag_s:,.0f} s, and {nodes} "
                "handles nothing",
                f"consume it again: celery control add_consumer {queue}; else see the worker's log, and restart it",
            )


def _check_handlers(facts: SystemFacts) -> Iterator[Diagnosis]:
    names = {subscription.name for subscription in facts.subscriptions} - facts.without_handler
    for name in sorted(facts.without_handler):
        nearest = next(iter(difflib.get_close_matches(name, names, n=1)), "NEW_NAME")
        yield Diagnosis(
            "handler",
            f"no running worker has the handler {name}: it was renamed or removed, and its events are parked",
            f"renamed: petiole subscriptions withdraw {name} --to {nearest}; removed: --purge",
        )
    for parked in facts.parked:
        if parked.need.kind != "handler" or parked.need.name not in facts.without_handler:
            yield Diagnosis(
                "parked",
                f"{parked.count:,} deliveries of {parked.need.queue} wait for {parked.need}",
                "deploy the version that has it, or see petiole parked",
            )


def _check_patterns(facts: SystemFacts) -> Iterator[Diagnosis]:
    # The pattern `message.*` stands for a family of which any topic may be published.
    known = [topic.replace("*", "any") for topic in facts.topics]
    for subscription in facts.subscriptions:
        for pattern in subscription.patterns:
            trie: TopicTrie[bool] = TopicTrie()
            trie.add(pattern, listener=True)
            is_open = any(topic.endswith(".*") and pattern.startswith(topic[:-1]) for topic in facts.topics)
            if is_open or any(trie.match(topic) for topic in known):
                continue
            nearest = difflib.get_close_matches(pattern, facts.topics, n=1)
            hint = f"did you mean {nearest[0]}? else " if nearest else ""
            yield Diagnosis(
                "pattern",
                f"{subscription.name} subscribes to {pattern}, which matches no event type that is known here",
                f"{hint}name the modules of your types in PETIOLE_EVENT_TYPES; petiole types lists them",
            )


def _check_versions(facts: SystemFacts) -> Iterator[Diagnosis]:
    versions = {process.name: process.versions for process in (facts.here, *facts.workers)}
    for name, described in _differences(versions):
        yield Diagnosis("versions", f"processes differ in {name} ({described})", "deploy the same versions everywhere")
    # An operator's shell may lack settings of the workers, so settings are compared between workers only.
    for name, described in _differences({worker.name: worker.settings for worker in facts.workers}):
        variable = f"PETIOLE_{name.upper()}"
        yield Diagnosis(
            "settings", f"workers differ in {variable} ({described})", "start all workers with the same environment"
        )


def _check_schemas(facts: SystemFacts) -> Iterator[Diagnosis]:
    for topic, described in _differences(facts.schemas):
        yield Diagnosis(
            "schemas",
            f"processes have different schemas of {topic} (version:hash {described})",
            "deploy the same code everywhere; raise schema_version with a change: petiole schemas diff",
        )


def _differences(values: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """Find the names with different values, by process; describe each value with its processes."""
    for name in sorted({name for each in values.values() for name in each}):
        by_value: defaultdict[str, list[str]] = defaultdict(list)
        for process, each in values.items():
            if name in each:
                by_value[str(each[name])].append(process)
        if len(by_value) > 1:
            yield name, "; ".join(f"{value}: {', '.join(processes)}" for value, processes in by_value.items())


def _check_circuits(facts: SystemFacts) -> Iterator[Diagnosis]:
    for circuit in facts.circuits:
        # One that opened by itself also closes by itself; one without a probe stays open.
        if circuit.state == "open" and circuit.due is None:
            yield Diagnosis(
                "breaker",
                f"the circuit breaker {circuit.name} was opened by {circuit.by or 'an operator'} and stays open",
                f"petiole breakers close {circuit.name}",
            )


def _check_environment(facts: SystemFacts) -> Iterator[Diagnosis]:
    for warning in facts.unknown_settings:
        problem, _, remedy = warning.partition("; ")
        yield Diagnosis("unknown_setting", problem, remedy)


_CHECKS: tuple[Callable[[SystemFacts], Iterator[Diagnosis]], ...] = (
    _check_servers,
    _check_transport,
    _check_clocks,
    _check_beats,
    _check_workers,
    _check_queues,
    _check_stalls,
    _check_handlers,
    _check_patterns,
    _check_versions,
    _check_schemas,
    _check_circuits,
    _check_environment,
)
