"""Knows which releases of the operator are gone: their Lease is no longer renewed. Another release may then drive their jobs.

As in leader election, ages are measured on this process's own clock, from when a renewal was first seen.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from trainwright.cluster.port import Cluster, ClusterError

log = structlog.get_logger(__name__)

_INTERVAL: Final = 10.0
"""Seconds between two looks at the Lease of the same release."""
GONE_AFTER: Final = 60.0
"""Seconds without a renewal after which a release counts as gone: four times as long as its replicas take to replace each other."""


@dataclass
class _Seen:
    """The newest renewal of a Lease, when it was first seen, and when to look again."""

    renewed: str | None
    since: float
    next_look: float


class Releases:
    """The other releases whose jobs this one sees. A release is called NAMESPACE/LEASE.

    Args:
        cluster: Where the Leases are.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[str, _Seen] = {}

    def is_gone(self, release: str) -> bool:
        """Return whether a release has not renewed its Lease for so long that its jobs may be taken over."""
        seen = self._seen.get(release)
        return seen is not None and asyncio.get_running_loop().time() >= seen.since + GONE_AFTER

    async def look(self, release: str) -> None:
        """Look at the Lease of a release, unless that was done a moment ago. If it cannot be read, the release counts as present."""
        now = asyncio.get_running_loop().time()
        seen = self._seen.get(release)
        if seen is None:
            log.warning("another release drives jobs that this one sees; this one leaves them alone", release=release)
            seen = self._seen[release] = _Seen(None, now, now)
        if now < seen.next_look:
            return
        seen.next_look = now + _INTERVAL
        namespace, _, lease = release.partition("/")
        try:
            renewed = await self._cluster.lease_renewal(namespace, lease)
        except ClusterError as error:
            log.debug("the Lease of another release cannot be read", release=release, error=str(error))
            seen.since = now
            return
        if renewed is not None and renewed != seen.renewed:
            seen.renewed, seen.since = renewed, now
