"""Reads the warning events of pods that do not start: rate-limited, and never failing a reconcile pass."""

import asyncio
from typing import Final

import structlog

from trainwright.cluster.port import Cluster, ClusterError, JobKey
from trainwright.controller.store import PodWarning, Store

log = structlog.get_logger(__name__)

INTERVAL: Final = 15.0
"""Seconds between two requests for the same job."""


class PodWarnings:
    """Reads the warnings about pods into the store.

    Args:
        cluster: Whom to ask.
        store: Learns the answers.
    """

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store
        self._next: dict[JobKey, float] = {}

    async def read(self, key: JobKey, uid: str) -> float:
        """Read the warnings about the pod with this UID if it is time to; return the seconds until the job needs another pass."""
        clock = asyncio.get_running_loop().time
        wait = self._next.get(key, 0.0) - clock()
        if wait > 0:
            return wait
        self._next[key] = clock() + INTERVAL
        try:
            said = await self._cluster.pod_warning(key.namespace, uid)
        except ClusterError as error:
            log.info("the events of a pod that does not start cannot be read", job=str(key), error=str(error))
            return INTERVAL
        news = self._store.warn(key, None if said is None else PodWarning(uid, *said))
        return 0.0 if news else INTERVAL

    def forget(self, key: JobKey) -> None:
        """Forget a job that is gone."""
        self._next.pop(key, None)
