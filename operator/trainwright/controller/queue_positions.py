"""Looks up the positions of jobs in queues: one rate-limited request per queue, never failing a reconcile pass."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from trainwright.cluster.port import Cluster, ClusterError, JobKey, NotFoundError, PendingWorkload
from trainwright.plan.types import QueueEntry, QueuePosition

log = structlog.get_logger(__name__)

INTERVAL: Final = 15.0
"""Seconds between two requests for the same queue."""
_HASH = 6
"""Characters that Kueue appends to what it names after a single pod: a hyphen and a hash."""


class QueuePositions:
    """Remembers the position of every job that waits in a queue of Kueue, and which of them wait in one that does not exist.

    Args:
        cluster: Whom to ask.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._next: dict[tuple[str, str], float] = {}
        self._pending: dict[tuple[str, str], Sequence[PendingWorkload]] = {}
        self._missing: set[tuple[str, str]] = set()
        self._positions: dict[JobKey, QueuePosition] = {}
        self._queueless: set[JobKey] = set()

    def position(self, key: JobKey) -> QueuePosition | None:
        """Return the job's position as last looked up, or None."""
        return self._positions.get(key)

    def is_queueless(self, key: JobKey) -> bool:
        """Return whether the job waits in a queue that did not exist when it was last looked up."""
        return key in self._queueless

    async def look_up(self, key: JobKey, entry: QueueEntry) -> float:
        """Look up the job's position; return the seconds until the job needs another pass: 0 if what is known has changed."""
        clock = asyncio.get_running_loop().time
        queue = (key.namespace, entry.queue)
        if clock() >= self._next.get(queue, 0.0):
            self._next[queue] = clock() + INTERVAL
            await self._ask(queue)
        before = self._positions.get(key), key in self._queueless
        position = _find(self._pending.get(queue, ()), entry)
        if position is None:
            self._positions.pop(key, None)
        else:
            self._positions[key] = position
        if queue in self._missing:
            self._queueless.add(key)
        else:
            self._queueless.discard(key)
        return 0.0 if (position, queue in self._missing) != before else max(0.1, self._next[queue] - clock())

    async def _ask(self, queue: tuple[str, str]) -> None:
        self._missing.discard(queue)
        try:
            self._pending[queue] = await self._cluster.pending_workloads(*queue)
        except NotFoundError:
            self._pending.pop(queue, None)
            self._missing.add(queue)
        except ClusterError as error:
            self._pending.pop(queue, None)
            log.debug("the positions in a queue cannot be read", namespace=queue[0], queue=queue[1], error=str(error))

    def forget(self, key: JobKey) -> None:
        """Forget a job that no longer waits."""
        self._positions.pop(key, None)
        self._queueless.discard(key)


def _find(pending: Sequence[PendingWorkload], entry: QueueEntry) -> QueuePosition | None:
    for workload in pending:
        if workload.name == entry.group or (entry.group is None and _is_named_after(workload.name, entry.pod)):
            return QueuePosition(workload.position, len(pending), workload.overall)
    return None


def _is_named_after(name: str, pod: str) -> bool:
    return name.startswith(f"pod-{pod}-") and len(name) == len(f"pod-{pod}") + _HASH
