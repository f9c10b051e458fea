"""Compare the own event types of a process with those of the workers that run.

Two processes that read a type differently fail only when an event comes that one of them refuses. So a worker that
starts, and a publisher at its first event, say where they differ. A raised schema version is part of a deploy, and is
not reported: older workers park what they cannot read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from petiole.events.errors import PetioleError

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.stores.cluster_lifecycle import Cluster

log = logging.getLogger(__name__)

_REMEDY = (
    "version {version} of the type has another schema there; deploy the same code to both, and raise schema_version "
    "with every change: docs/guides/deploys.md"
)


def compare_publisher(bus: BusRuntime) -> None:
    """Report where this process, which publishes, differs from a running worker: once, and only by a log record."""
    if bus.has_compared_schemas:
        return
    bus.has_compared_schemas = True
    if not bus.event_registry.custom():
        return
    try:
        report_differences(bus, bus.stores.cluster_membership.read())
    except (RedisError, PetioleError) as error:
        log.info("schemas.not_compared", extra={"reason": str(error)})


def report_differences(bus: BusRuntime, cluster: Cluster, own_id: str = "") -> dict[str, str]:
    """Report the own types that a worker, other than `own_id`, has with another schema; return the own fingerprints."""
    # A publisher without own types needs none of these.
    from petiole.events.schemas import fingerprints_of_own_types
    from petiole.tasks.instrumentation import SchemaDiffers
    from petiole.tasks.stores.schema_fingerprints import find_differences

    own = fingerprints_of_own_types(bus.event_registry)
    others = bus.stores.schema_fingerprints.read(cluster.workers.keys() - {own_id}) if own else {}
    for other_id, fingerprints in others.items():
        node = cluster.workers[other_id].node
        for difference in find_differences(own, fingerprints):
            if difference.version_here == difference.version_there:
                remedy = _REMEDY.format(version=difference.version_here)
                bus.instrumentation.emit(SchemaDiffers(topic=difference.topic, worker=node, remedy=remedy))
    return own
