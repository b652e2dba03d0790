"""A cluster of one machine: objects in memory, pods as processes. Knows nothing of plans, only of the port's promises."""

from trainwright.cluster.local.cluster import LocalCluster
from trainwright.cluster.local.mounts import Folders

__all__ = ["Folders", "LocalCluster"]
