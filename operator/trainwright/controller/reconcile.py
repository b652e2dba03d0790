"""One reconcile pass over one job: observe, plan, apply. It decides only when a status may be written."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from trainwright.build import Settings
from trainwright.cluster.port import Cluster, ConflictError, JobKey, Manifest, RejectedError
from trainwright.controller.apis import Apis
from trainwright.controller.apply import Applier
from trainwright.controller.classes import NO_CLASSES, Classes, ClassReader
from trainwright.controller.creation_backoff import CreationBackoff, MissingPods
from trainwright.controller.pod_warnings import PodWarnings
from trainwright.controller.queue import RetryError
from trainwright.controller.queue_positions import QueuePositions
from trainwright.controller.releases import Releases
from trainwright.controller.store import PodWarning, Snapshot, Store
from trainwright.controller.throttle import StatusThrottle
from trainwright.controller.tuning import Tuning
from trainwright.metrics import Metrics
from trainwright.plan import plan
from trainwright.plan.classes import is_idle, is_undecided
from trainwright.plan.observe import read_job, read_neighbour, read_pod
from trainwright.plan.pods import Pod
from trainwright.plan.types import Neighbour, Observed, Plan
from trainwright.plan.urgency import Urgency, counts

log = structlog.get_logger(__name__)


class Reconciler:
    """Runs reconcile passes over jobs.

    Args:
        cluster: Asked for the pods of a job before anything is decided that destroys or counts.
        store: What is known.
        applier: Carries plans out.
        apis: Knows what the cluster serves.
        tuning: The pace of the loop.
        settings: What the platform decides for all jobs.
        metrics: Told of conflicts.
        now: The clock.

    Attributes:
        settings: What the next pass decides with.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        applier: Applier,
        apis: Apis,
        tuning: Tuning,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._applier = applier
        self._throttle: StatusThrottle[JobKey] = StatusThrottle(tuning, group=lambda key: key.namespace)
        self.settings = settings
        self._metrics = metrics
        self._now = now
        self._listening_since: datetime | None = None
        self._apis = apis
        self._pod_warnings = PodWarnings(cluster, store)
        self._queue_positions = QueuePositions(cluster)
        self._releases = Releases(cluster)
        self._creation_backoff = CreationBackoff(tuning.backoff_base, tuning.backoff_limit)
        self._classes = ClassReader(cluster)
        self._starting: set[JobKey] = set()

    async def reconcile(self, key: JobKey) -> float | None:
        """Reconcile the job and return the seconds until the next pass, or None."""
        with self._metrics.reconcile_seconds.time():
            return await self._pass(key)

    async def _pass(self, key: JobKey) -> float | None:
        snapshot, observed = self._observe(key)
        if snapshot is None or observed is None:
            self._throttle.forget(key)
            self._pod_warnings.forget(key)
            self._queue_positions.forget(key)
            self._creation_backoff.forget(key)
            return None
        if observed.job.status.operator not in ("", self.settings.release):
            await self._releases.look(observed.job.status.operator)
        known = NO_CLASSES
        if is_undecided(observed):
            # Limits per namespace hold only if nothing is awaited between this look at the other jobs and the plan.
            known = await self._classes.read(key.namespace)
            snapshot, observed = self._observe(key, known)
            if snapshot is None or observed is None:
                return 0.0
        chosen = plan(observed)
        if needs_proof(observed, chosen):
            await self._relist(key)
            snapshot, observed = self._observe(key, known)
            if snapshot is None or observed is None:
                return 0.0
            chosen = plan(observed)
        if chosen.status is None or is_idle(chosen.status) or not is_idle(observed.job.status):
            return await self._apply(key, snapshot, observed, chosen)
        # Nothing is awaited between this decision and the note of it: no other pass can give away the same room.
        self._starting.add(key)
        try:
            return await self._apply(key, snapshot, observed, chosen)
        finally:
            self._starting.discard(key)

    async def _apply(self, key: JobKey, snapshot: Snapshot, observed: Observed, chosen: Plan) -> float | None:
        await self._applier.delete_pods(key, chosen.delete)
        held = await self._create(key, observed, chosen.create)
        if held == 0.0:
            return 0.0  # the next pass reports the reason
        wait = await self._write(key, snapshot, chosen)
        if chosen.delete_job:
            await self._applier.delete_job(key, observed.job.uid)
        if held is None and observed.rejection is not None:
            self._store.reject(key, None)
            return 0.0  # no refusal this time; the next pass corrects the status
        if chosen.urgency == Urgency.DECISION:
            return 0.0  # the next pass acts on the new status
        if chosen.warnings_of is not None:
            wait = _earlier(wait, await self._pod_warnings.read(key, chosen.warnings_of))
        if chosen.queue_entry is not None:
            wait = _earlier(wait, await self._queue_positions.look_up(key, chosen.queue_entry))
        else:
            self._queue_positions.forget(key)
        return _earlier(_earlier(wait, held), chosen.requeue_after)

    async def _create(self, key: JobKey, observed: Observed, manifests: Sequence[Manifest]) -> float | None:
        """Create what is missing, unless it was tried a moment ago and is missing again.

        Returns:
            None if nothing is missing any more; the seconds until it is tried again, or 0 if the reason is news.
        """
        if not manifests:
            return None
        clock = asyncio.get_running_loop().time
        pods = frozenset(manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Pod")
        missing = MissingPods(pods, frozenset(pod.uid for pod in observed.former_pods))
        held = self._creation_backoff.pause(key, missing, clock())
        if held > 0:
            return held
        try:
            refusal = await self._ask_for(key, observed, manifests)
        finally:
            held = self._creation_backoff.note(key, missing, clock())
        if refusal is None:
            return None
        if self._store.reject(key, refusal):
            log.info("the cluster refuses a child", job=str(key), reason=refusal)
            return 0.0
        return held

    async def _ask_for(self, key: JobKey, observed: Observed, manifests: Sequence[Manifest]) -> str | None:
        """Create children; return why the cluster refuses one of them."""
        try:
            await self._applier.create(key, observed.job.uid, manifests)
        except RejectedError as error:
            # The API may no longer be served. The next pass then does without it.
            if await self._apis.look():
                raise RetryError from error
            return str(error)
        return None

    async def _write(self, key: JobKey, snapshot: Snapshot, chosen: Plan) -> float | None:
        """Write the status if there is a new one and it may be written now, and then emit the events.

        Returns:
            The seconds until it may be written, or None if nothing is left to write.
        """
        if chosen.status is not None:
            clock = asyncio.get_running_loop().time
            wait = self._throttle.wait(key, clock(), chosen.urgency)
            if wait > 0:
                return wait
            # Take the token before the write, so that two jobs cannot use the last one.
            self._throttle.written(key, clock())
            try:
                await self._applier.write_status(snapshot.job, chosen.status.to_wire())
            except ConflictError as error:
                self._metrics.conflicts.inc()
                raise RetryError from error
        await self._applier.emit(snapshot.job, chosen.events)
        return None

    def _observe(self, key: JobKey, known: Classes = NO_CLASSES) -> tuple[Snapshot | None, Observed | None]:
        snapshot = self._store.snapshot(key)
        if snapshot is None:
            return None, None
        now = self._now()
        # Jobs are looked at from the first listing on, which is also when reports begin to be accepted.
        self._listening_since = self._listening_since or now
        job = read_job(snapshot.job)
        return snapshot, Observed(
            job=job,
            pods=tuple(_workers(key.name, snapshot.pods, snapshot.warning)),
            received=snapshot.received,
            rejection=snapshot.rejection,
            settings=self.settings,
            now=now,
            former_pods=tuple(_workers(key.name, snapshot.former_pods)),
            waiting_reports=snapshot.waiting_reports,
            listening_since=self._listening_since,
            namespace_heard_at=self._store.heard_at(key.namespace),
            operator_gone=self._releases.is_gone(job.status.operator),
            groups_served=self._apis.groups,
            queue_position=self._queue_positions.position(key),
            classes=known.known,
            namespace_class=known.of_namespace,
            neighbours=tuple(self._neighbours(key.namespace)) if known.limit_namespaces else (),
            queue_unknown=self._queue_positions.is_queueless(key),
        )

    def _neighbours(self, namespace: str) -> Iterator[Neighbour]:
        """Yield the jobs of a namespace; one whose start is being written takes its room already."""
        for job in self._store.jobs():
            metadata = job["metadata"]
            if metadata.get("namespace") == namespace:
                neighbour = read_neighbour(job)
                starting = JobKey(namespace, metadata["name"]) in self._starting
                yield replace(neighbour, active=True, waiting=False) if starting else neighbour

    async def _relist(self, key: JobKey) -> None:
        self._store.put_pods(key, await self._cluster.list_pods(key))


def _workers(job: str, pods: Iterable[Manifest], warning: PodWarning | None = None) -> Iterator[Pod]:
    for manifest in pods:
        try:
            pod = read_pod(manifest, job)
        except ValueError:  # a pod that a user created with our labels, for example a copy of a worker
            continue
        if warning is not None and warning.uid == pod.uid:
            pod = replace(pod, warning=(warning.reason, warning.message))
        yield pod


def needs_proof(observed: Observed, chosen: Plan) -> bool:
    """Return whether the plan destroys or counts something: that must never be decided from an outdated watch.

    Creations need no proof, since names are deterministic.
    """
    charged = chosen.status is not None and counts(observed.job.status, chosen.status)
    return charged or chosen.delete_job or bool(chosen.delete)


def _earlier(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
