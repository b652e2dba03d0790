"""The control loop over all jobs of a cluster, either Kubernetes or the local one."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from trainwright.build import Settings
from trainwright.cluster.port import Cluster, ClusterError, JobKey
from trainwright.controller.apis import Apis
from trainwright.controller.apply import Applier
from trainwright.controller.pause import pause
from trainwright.controller.queue import KeyedQueue
from trainwright.controller.reconcile import Reconciler
from trainwright.controller.store import Store
from trainwright.controller.tuning import Tuning
from trainwright.metrics import Metrics

log = structlog.get_logger(__name__)

_STARTUP_RETRY = 2.0
_FIRST_RESYNC = 15.0
_SETTLE = 1.0
"""Seconds from the restart of a watch to the resync, because both watches often restart together."""

_GATHER = 0.00025
"""Seconds per pod for which news of a job are gathered: nothing for a few, a quarter of a second for a thousand."""


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class Controller:
    """Reconciles all jobs of a cluster: queues every job that an event concerns and runs reconcile passes.

    The store is the Sink that a watching adapter feeds; it may be fed before `run`, and is complete once `synced` is
    set. Nothing is decided before that. `left_out` are the namespaces that the newest listing could not see into, and
    `reach_changed` is set whenever they are others than before.

        store = Store()
        controller = Controller(LocalCluster(sink=store), settings, store=store)
        await controller.run(stop)

    Args:
        cluster: Where jobs and pods live.
        settings: What the platform decides for all jobs.
        store: What is known; made here when absent.
        tuning: The pace of the loop.
        metrics: Where to count; made here when absent.
        now: The clock.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        *,
        store: Store | None = None,
        tuning: Tuning | None = None,
        metrics: Metrics | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.store = store if store is not None else Store()
        self.metrics = metrics if metrics is not None else Metrics()
        self.synced = asyncio.Event()
        self.left_out: dict[str, str] = {}
        self.reach_changed = asyncio.Event()
        self._relisted = asyncio.Event()
        self._cluster = cluster
        self._tuning = tuning if tuning is not None else Tuning()
        applier = Applier(cluster, self.store, self.metrics, self._tuning.creates, now)
        self._apis = Apis(cluster)
        self._reconciler = Reconciler(
            cluster, self.store, applier, self._apis, self._tuning, settings, self.metrics, now
        )
        self.queue = KeyedQueue[JobKey](
            self._reconciler.reconcile,
            limit=self._tuning.passes,
            backoff_base=self._tuning.backoff_base,
            backoff_limit=self._tuning.backoff_limit,
            failed=self._failed,
            can_wait=lambda key: not self.store.has_begun(key),
            group=lambda key: key.namespace,
        )
        self.store.notify(self._changed)
        self.metrics.observe(self.store.jobs, lambda: self.queue.depth, lambda: self.queue.oldest)

    def change_settings(self, settings: Settings) -> None:
        """Decide with these settings from the next pass on. Pods that exist keep what they were created with."""
        self._reconciler.settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; running passes may then end in their own time, within limits.

        The first listing is repeated until it succeeds: a cluster without the API server or the CRD is waited for.
        """
        await self._first_listing(stop)
        if stop.is_set():
            return
        self.synced.set()
        self.metrics.synced.set(1)
        resync = asyncio.create_task(self._resync_forever(), name="resync")
        try:
            await self.queue.run(stop, self._tuning.drain_timeout)
        finally:
            resync.cancel()
            await asyncio.gather(resync, return_exceptions=True)

    async def resync(self) -> None:
        """List all jobs and pods, forget what is gone, see what the cluster serves, and look at every job again."""
        jobs, pods, _ = await asyncio.gather(self._cluster.list_jobs(), self._cluster.list_pods(), self._apis.look())
        self._note_reach(jobs.left_out | pods.left_out)
        self.store.put_listing(jobs, pods)
        for key in self.store.job_keys():
            self.queue.add(key)

    def _note_reach(self, left_out: dict[str, str]) -> None:
        """Record the namespaces that could not be listed. A deleted namespace must not stop the reconciliation of the others."""
        if left_out.keys() != self.left_out.keys():
            log.warning("namespaces cannot be listed and are skipped", namespaces=left_out)
            self.reach_changed.set()
        self.left_out = left_out
        self.metrics.namespaces_left_out.set(len(left_out))

    def relisted(self) -> None:
        """Record that a watch restarted with a new listing and may have missed deletions in between."""
        self._relisted.set()

    async def _first_listing(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.resync()
            except ClusterError as error:
                log.warning("cannot list jobs and pods yet", error=str(error), retry_seconds=_STARTUP_RETRY)
                await pause(stop, _STARTUP_RETRY)
            else:
                return

    async def _resync_forever(self) -> None:
        # The first one comes soon: watches begin after the first listing, and miss what was deleted in between.
        await asyncio.sleep(min(_FIRST_RESYNC, self._tuning.resync_interval))
        while True:
            self._relisted.clear()
            try:
                await self.resync()
            except ClusterError as error:
                log.warning("resync failed; the watches continue", error=str(error))
                self._relisted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tuning.resync_interval):
                    await self._relisted.wait()
                    await asyncio.sleep(_SETTLE)

    def _changed(self, key: JobKey) -> None:
        """Queue a job. Every pass looks at all of its pods, so the more there are, the longer news are gathered first."""
        self.queue.add(key, self.store.width(key) * _GATHER)

    def _failed(self, key: JobKey, error: Exception) -> None:
        self.metrics.reconcile_errors.inc()
        if isinstance(error, ClusterError):
            log.warning("reconcile pass failed and will be retried", job=str(key), error=str(error))
        else:
            log.error("reconcile pass failed and will be retried", job=str(key), exc_info=error)
