"""Carries out a plan: deletions, creations, one status write, events. Chooses nothing; every step may be repeated.

The order makes a pass safe to kill after any write: counters are only ever in plans without deletions and creations,
names are deterministic, and deletions name the UID they mean.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

import structlog

from trainwright.api.names import API_VERSION, KIND, LABEL_JOB, MANAGED_BY
from trainwright.api.status import rfc3339
from trainwright.cluster.port import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    JobKey,
    Manifest,
    NotFoundError,
    RejectedError,
)
from trainwright.controller.store import Store, owner_uid
from trainwright.controller.turns import Slots
from trainwright.metrics import Metrics
from trainwright.plan.types import Event, PodDeletion

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Applier:
    """Writes to the cluster and records the results in the store.

    Args:
        cluster: Where to write.
        store: Learns the answers, so that no later pass acts on a state older than these writes.
        metrics: Counts status writes.
        concurrency: How many objects are created or deleted at once, over all jobs. Namespaces take turns.
        now: The clock.
    """

    def __init__(
        self, cluster: Cluster, store: Store, metrics: Metrics, concurrency: int, now: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._metrics = metrics
        self._concurrency = concurrency
        self._slots = Slots(concurrency)
        self._now = now

    async def delete_pods(self, key: JobKey, deletions: Iterable[PodDeletion]) -> None:
        """Ask for the deletion of pods, all at once."""
        await self._each(tuple(deletions), lambda deletion: self._delete_pod(key, deletion))

    async def create(self, key: JobKey, job_uid: str, manifests: Iterable[Manifest]) -> None:
        """Create missing children: first those that pods depend on, then all pods concurrently.

        Raises:
            RejectedError: The cluster refuses one of them; what was not tried yet is left for later.
        """
        manifests = list(manifests)
        refused: list[RejectedError] = []
        for wave in (
            [manifest for manifest in manifests if manifest["kind"] != "Pod"],
            [manifest for manifest in manifests if manifest["kind"] == "Pod"],
        ):
            await self._each(wave, lambda manifest: self._create_one(manifest, refused))
            if refused:
                raise refused[0]
        if manifests:
            await self._settle_existing(key, job_uid, manifests)

    async def write_status(self, job: Manifest, status: Manifest) -> None:
        """Replace the job's status.

        Raises:
            ConflictError: The job has changed; the watch will tell, and the pass must be repeated.
        """
        try:
            stored = await self._cluster.write_status(job, status)
        except NotFoundError:
            self._store.put_job(job, deleted=True)
        else:
            self._metrics.status_writes.inc()
            self._store.put_job(stored)

    async def emit(self, job: Manifest, events: Iterable[Event]) -> None:
        """Emit Events on the job. Events are best effort: one that cannot be written is dropped."""
        for event in events:
            try:
                await self._cluster.create(event_manifest(job, event, self._now()))
            except ClusterError as error:
                log.info("event dropped", job=job["metadata"]["name"], reason=event.reason, error=str(error))

    async def delete_job(self, key: JobKey, uid: str) -> None:
        """Delete the job, and through ownership its children."""
        try:
            await self._cluster.delete_job(key, uid)
        except NotFoundError:
            log.debug("job was gone already", job=str(key))

    async def _each(self, items: Sequence[T], step: Callable[[T], Awaitable[None]]) -> None:
        """Run a step for every item and then raise the first error, so that no step is still running during a retry.

        No more of them wait for a slot at once than there are slots, or the pods of a wide job would go before all others.
        """
        pending, errors = iter(items), []

        async def work() -> None:
            for item in pending:
                try:
                    await step(item)
                except Exception as error:  # noqa: BLE001 - raised once all are done
                    errors.append(error)

        await asyncio.gather(*(work() for _ in range(min(self._concurrency, len(items)))))
        if errors:
            raise errors[0]

    async def _delete_pod(self, key: JobKey, deletion: PodDeletion) -> None:
        async with self._slots.hold(key.namespace):
            try:
                await self._cluster.delete_pod(key, deletion.name, deletion.uid)
            except NotFoundError:
                self._store.pod_gone(key, deletion.uid)
            else:
                # Recorded until the watch confirms it; otherwise the next pass would delete the pod again.
                self._store.pod_deleting(key, deletion.uid, self._now())

    async def _create_one(self, manifest: Manifest, refused: list[RejectedError]) -> None:
        async with self._slots.hold(manifest["metadata"]["namespace"]):
            if refused:
                return
            try:
                stored = await self._cluster.create(manifest)
            except AlreadyExistsError:
                return
            except RejectedError as error:
                refused.append(error)
                return
            except NotFoundError as error:
                if manifest["kind"] != "PodGroup":
                    raise
                refused.append(RejectedError(f"no {manifest['apiVersion']} PodGroup in this cluster: {error}"))
                return
        if manifest["kind"] == "Pod":
            self._store.put_pod(stored)

    async def _settle_existing(self, key: JobKey, job_uid: str, manifests: list[Manifest]) -> None:
        """See to it that every pod asked for is known: one that existed already may be known late, or not be ours."""
        wanted = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Pod"}
        if wanted <= self._store.pod_names(key, job_uid):
            return
        pods = await self._cluster.list_pods(key)
        self._store.put_pods(key, pods)
        foreign = wanted - {pod["metadata"]["name"] for pod in pods if owner_uid(pod) == job_uid}
        if foreign:
            raise RejectedError(
                f"pod {min(foreign)} exists and does not belong to this job; waiting for it to be deleted"
            )


def event_manifest(job: Manifest, event: Event, now: datetime) -> Manifest:
    """Return the Kubernetes Event object on the job."""
    meta = job["metadata"]
    moment = rfc3339(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta['name']}.{secrets.token_hex(8)}",
            "namespace": meta["namespace"],
            "labels": {"app.kubernetes.io/managed-by": MANAGED_BY, LABEL_JOB: meta["name"]},
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:1024],
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
