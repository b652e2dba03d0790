"""Asking for the places of jobs that wait in a queue: once for all jobs of it, seldom, and never a reason for a pass to fail."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from trainwright.cluster.port import Cluster, ClusterError, InLine, JobKey
from trainwright.plan.types import Place, Ticket

log = structlog.get_logger(__name__)

INTERVAL: Final = 15.0
"""Seconds between two questions about the same queue."""
_HASH = 6
"""Characters that Kueue appends to what it names after a single pod: a hyphen and a hash."""


class Queues:
    """Remembers the place of every job that waits in a queue of Kueue.

    Args:
        cluster: Whom to ask.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._next: dict[tuple[str, str], float] = {}
        self._lines: dict[tuple[str, str], Sequence[InLine]] = {}
        self._places: dict[JobKey, Place] = {}

    def place(self, key: JobKey) -> Place | None:
        """Return the job's place as last heard of, or None."""
        return self._places.get(key)

    async def look(self, key: JobKey, ticket: Ticket) -> float:
        """Learn the job's place, and return the seconds until the job must be looked at again: 0 if the place is news."""
        clock = asyncio.get_running_loop().time
        line = (key.namespace, ticket.queue)
        if clock() >= self._next.get(line, 0.0):
            self._next[line] = clock() + INTERVAL
            await self._ask(line)
        before, place = self._places.get(key), _find(self._lines.get(line, ()), ticket)
        if place is None:
            self._places.pop(key, None)
        else:
            self._places[key] = place
        return 0.0 if place != before else max(0.1, self._next[line] - clock())

    async def _ask(self, line: tuple[str, str]) -> None:
        try:
            self._lines[line] = await self._cluster.line(*line)
        except ClusterError as error:
            self._lines.pop(line, None)
            log.debug("the places in a queue cannot be learned", namespace=line[0], queue=line[1], error=str(error))

    def forget(self, key: JobKey) -> None:
        """Forget the place of a job that waits no longer."""
        self._places.pop(key, None)


def _find(line: Sequence[InLine], ticket: Ticket) -> Place | None:
    for entry in line:
        if entry.name == ticket.group or (ticket.group is None and _is_named_after(entry.name, ticket.pod)):
            return Place(entry.place, len(line), entry.overall)
    return None


def _is_named_after(name: str, pod: str) -> bool:
    return name.startswith(f"pod-{pod}-") and len(name) == len(f"pod-{pod}") + _HASH
