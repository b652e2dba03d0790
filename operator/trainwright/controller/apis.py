"""Discovers which optional APIs the cluster serves."""

import structlog

from trainwright.build.gang import GROUPS_API, GROUPS_RESOURCE
from trainwright.cluster.port import Cluster, ClusterError

log = structlog.get_logger(__name__)


class Apis:
    """Looks up what the cluster serves.

    Attributes:
        groups: Whether it serves Kubernetes' own groups of pods, as last seen.

    Args:
        cluster: Whom to ask.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.groups = False
        self._cluster = cluster

    async def look(self) -> bool:
        """Repeat the discovery and return whether anything has changed. If it fails, the previous result is kept."""
        before = self.groups
        try:
            self.groups = await self._cluster.serves(GROUPS_API, GROUPS_RESOURCE)
        except ClusterError as error:
            log.info("API discovery failed", error=str(error))
        if self.groups != before:
            log.info("groups of pods", api=GROUPS_API, served=self.groups)
        return self.groups != before
