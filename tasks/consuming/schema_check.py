"""Compare the own event types of a worker that starts with those of the workers that run.

Two processes that read a type differently fail only when an event comes that one of them refuses. So the worker that
starts says where it differs. A raised schema version is part of a deploy, and is not reported: older workers park what
they cannot read.
"""

from __future__ import annotations

from petiole.events.schemas import fingerprints_of_own_types
from petiole.tasks.instrumentation import SchemaDiffers
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.cluster_lifecycle import Cluster
from petiole.tasks.stores.schema_fingerprints import find_differences

_REMEDY = (
    "version {version} of the type has another schema there; deploy the same code to both, and raise schema_version "
    "with every change: docs/guides/deploys.md"
)


def compare_schemas_with_workers(bus: BusRuntime, worker_id: str, cluster: Cluster) -> None:
    """Store the fingerprints of this worker's own types, and report the types that a running worker has differently."""
    own = fingerprints_of_own_types(bus.event_registry)
    if not own:
        return
    store = bus.stores.schema_fingerprints
    for other_id, fingerprints in store.read(cluster.workers.keys() - {worker_id}).items():
        node = cluster.workers[other_id].node
        for difference in find_differences(own, fingerprints):
            if difference.version_here == difference.version_there:
                remedy = _REMEDY.format(version=difference.version_here)
                bus.instrumentation.emit(SchemaDiffers(topic=difference.topic, worker=node, remedy=remedy))
    store.announce(worker_id, own, cluster.workers.keys())
